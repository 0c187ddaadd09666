// franz-go, as a peer of npm run bench: reads a job (job.ts) from its input, where a token isn't seen by others, and prints what it measured.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
)

type job struct {
	Client string
	Work   struct {
		Kind        string
		Outstanding int
		PerCall     int
		PerSecond   float64
		By          string
		Records     int64
	}
	ValueBytes  int
	Compression string
	Topic       string
	Bootstrap   []string
	BrokerPids  []int
	WarmUpMs    float64
	MeasureMs   float64
	// Beside what job.ts has: where values are, and for OAUTHBEARER a token.
	ValuesFile string
	CaFile     string
	Token      string
}

type outcome struct {
	Records         int64    `json:"records"`
	TotalRecords    int64    `json:"totalRecords"`
	Seconds         float64  `json:"seconds"`
	CPUMicros       float64  `json:"cpuMicros"`
	BrokerCPUMicros *float64 `json:"brokerCpuMicros"`
	RssMiB          *float64 `json:"rssMiB"`
	PeakRssMiB      float64  `json:"peakRssMiB"`
	P50Ms           *float64 `json:"p50Ms"`
	P99Ms           *float64 `json:"p99Ms"`
}

const keyCount = 10_000

var keys [][]byte
var values [][]byte

func main() {
	var j job
	check(json.NewDecoder(os.Stdin).Decode(&j))
	for i := range keyCount {
		keys = append(keys, fmt.Appendf(nil, "order-%06d", i*7919%100_000))
	}
	text, err := os.ReadFile(j.ValuesFile)
	check(err)
	for at := 0; at+j.ValueBytes <= len(text); at += j.ValueBytes {
		values = append(values, text[at:at+j.ValueBytes])
	}
	var done outcome
	switch j.Work.Kind {
	case "produce":
		done = produce(j)
	case "sequential":
		done = sequential(j)
	case "rate":
		done = atRate(j)
	case "consume":
		done = consume(j)
	}
	check(json.NewEncoder(os.Stdout).Encode(done))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func client(j job, more ...kgo.Opt) *kgo.Client {
	options := append([]kgo.Opt{kgo.SeedBrokers(j.Bootstrap...), kgo.ClientID("bench")}, more...)
	if j.Token != "" {
		pem, err := os.ReadFile(j.CaFile)
		check(err)
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		token := func(context.Context) (oauth.Auth, error) { return oauth.Auth{Token: j.Token}, nil }
		options = append(options, kgo.DialTLSConfig(&tls.Config{RootCAs: roots}), kgo.SASL(oauth.Oauth(token)))
	}
	c, err := kgo.NewClient(options...)
	check(err)
	return c
}

// At its defaults but for two. They are snappy, where all others send uncompressed; and a linger of 10 ms, which with
// 1,000 outstanding lets through 100,000 records a second at most and is all that a latency would show.
func producer(j job) *kgo.Client {
	codec := kgo.NoCompression()
	switch j.Compression {
	case "lz4":
		codec = kgo.Lz4Compression()
	case "zstd":
		codec = kgo.ZstdCompression()
	}
	return client(j, kgo.DefaultProduceTopic(j.Topic), kgo.ProducerBatchCompression(codec), kgo.ProducerLinger(0))
}

func record(i int) *kgo.Record {
	return &kgo.Record{Key: keys[i%len(keys)], Value: values[i%len(values)]}
}

func produce(j job) outcome {
	c := producer(j)
	defer c.Close()
	ctx := context.Background()
	var counted, total atomic.Int64
	var counting, ended atomic.Bool
	var running sync.WaitGroup
	if j.Client == "franz-go-callback" {
		room := make(chan struct{}, j.Work.Outstanding)
		acknowledged := func(_ *kgo.Record, err error) {
			check(err)
			total.Add(1)
			if counting.Load() {
				counted.Add(1)
			}
			<-room
		}
		running.Go(func() {
			for i := 0; !ended.Load(); i++ {
				room <- struct{}{}
				c.Produce(ctx, record(i), acknowledged)
			}
		})
	} else {
		for caller := range j.Work.Outstanding {
			running.Go(func() {
				for i := caller * j.Work.PerCall; !ended.Load(); i += j.Work.Outstanding * j.Work.PerCall {
					records := make([]*kgo.Record, j.Work.PerCall)
					for n := range records {
						records[n] = record(i + n)
					}
					check(c.ProduceSync(ctx, records...).FirstErr())
					total.Add(int64(j.Work.PerCall))
					if counting.Load() {
						counted.Add(int64(j.Work.PerCall))
					}
				}
			})
		}
	}
	time.Sleep(ms(j.WarmUpMs))
	counting.Store(true)
	m := start(j)
	time.Sleep(ms(j.MeasureMs))
	done := m.stop(counted.Load(), nil)
	ended.Store(true)
	running.Wait()
	check(c.Flush(ctx))
	done.TotalRecords = total.Load()
	return done
}

func sequential(j job) outcome {
	c := producer(j)
	defer c.Close()
	ctx := context.Background()
	i := 0
	send := func() {
		check(c.ProduceSync(ctx, record(i)).FirstErr())
		i++
	}
	for end := time.Now().Add(ms(j.WarmUpMs)); time.Now().Before(end); {
		send()
	}
	var took []float64
	m := start(j)
	for end := time.Now().Add(ms(j.MeasureMs)); time.Now().Before(end); {
		from := time.Now()
		send()
		took = append(took, time.Since(from).Seconds()*1000)
	}
	done := m.stop(int64(len(took)), took)
	done.TotalRecords = int64(i)
	return done
}

func atRate(j job) outcome {
	c := producer(j)
	defer c.Close()
	ctx := context.Background()
	var took []float64
	var lock sync.Mutex
	var under sync.WaitGroup
	began := time.Now()
	sent, counted := 0, int64(0)
	var m *meter
	for {
		elapsed := time.Since(began)
		if elapsed >= ms(j.WarmUpMs+j.MeasureMs) {
			break
		}
		if m == nil && elapsed >= ms(j.WarmUpMs) {
			m = start(j)
		}
		for ; float64(sent) < elapsed.Seconds()*j.Work.PerSecond; sent++ {
			due := began.Add(time.Duration(float64(sent) / j.Work.PerSecond * 1e9))
			counts := m != nil
			if counts {
				counted++
			}
			under.Add(1)
			c.Produce(ctx, record(sent), func(_ *kgo.Record, err error) {
				check(err)
				if counts {
					lock.Lock()
					took = append(took, time.Since(due).Seconds()*1000)
					lock.Unlock()
				}
				under.Done()
			})
		}
		time.Sleep(time.Millisecond)
	}
	done := m.stop(counted, nil)
	under.Wait()
	done.TotalRecords = int64(sent)
	done.P50Ms, done.P99Ms = percentile(took, 0.5), percentile(took, 0.99)
	return done
}

func consume(j job) outcome {
	group := fmt.Sprintf("bench-franz-%d-%d", os.Getpid(), time.Now().UnixNano())
	c := client(j, kgo.ConsumerGroup(group), kgo.ConsumeTopics(j.Topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(context.Background(), ms(j.MeasureMs)+60*time.Second)
	defer cancel()
	var seen, bytes, from int64
	var m *meter
	var first, warm time.Time
	for {
		fetches := c.PollFetches(ctx)
		check(fetches.Err0())
		if first.IsZero() && fetches.NumRecords() > 0 {
			first = time.Now()
		}
		fetches.EachRecord(func(r *kgo.Record) {
			seen++
			bytes += int64(len(r.Value))
		})
		switch {
		case first.IsZero():
		case m == nil && (seen >= j.Work.Records/5 || time.Since(first) >= max(ms(j.WarmUpMs), time.Second)):
			from, warm, m = seen, time.Now(), start(j)
		case m != nil && (seen-from >= j.Work.Records || time.Since(warm) >= ms(j.MeasureMs)):
			done := m.stop(seen-from, nil)
			done.TotalRecords = seen
			return done
		}
	}
}

func ms(value float64) time.Duration { return time.Duration(value * 1e6) }

type meter struct {
	pids   []int
	cpu    float64
	broker *float64
	at     time.Time
}

func start(j job) *meter {
	return &meter{pids: j.BrokerPids, broker: cpuOf(j.BrokerPids), cpu: ownCPU(), at: time.Now()}
}

func (m *meter) stop(records int64, took []float64) outcome {
	seconds := time.Since(m.at).Seconds()
	done := outcome{Records: records, Seconds: seconds, CPUMicros: ownCPU() - m.cpu}
	if broker := cpuOf(m.pids); broker != nil && m.broker != nil {
		used := *broker - *m.broker
		done.BrokerCPUMicros = &used
	}
	done.RssMiB = rss()
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	done.PeakRssMiB = float64(usage.Maxrss) / 1024
	done.P50Ms, done.P99Ms = percentile(took, 0.5), percentile(took, 0.99)
	return done
}

func ownCPU() float64 {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1000
}

// User and system time of all of them, in microseconds; nil where the system doesn't say.
func cpuOf(pids []int) *float64 {
	total := 0.0
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return nil
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
		for _, field := range fields[11:13] {
			ticks, err := strconv.ParseFloat(field, 64)
			check(err)
			total += ticks * 10_000
		}
	}
	return &total
}

func rss() *float64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return nil
	}
	pages, err := strconv.ParseFloat(strings.Fields(string(text))[1], 64)
	check(err)
	size := pages * float64(os.Getpagesize()) / (1 << 20)
	return &size
}

func percentile(took []float64, q float64) *float64 {
	if len(took) == 0 {
		return nil
	}
	sorted := slices.Sorted(slices.Values(took))
	return &sorted[max(0, int(float64(len(sorted))*q+0.999999)-1)]
}
