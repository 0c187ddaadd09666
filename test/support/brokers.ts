/** A broker that is killed is missed after 3 s, where Kafka's own default is 9: most of the time of a test about leaders that move. */
export const MISSED_SOON = {
  'broker.session.timeout.ms': '3000',
  'broker.heartbeat.interval.ms': '500',
  'replica.lag.time.max.ms': '5000',
} as const;
