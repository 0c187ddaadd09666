import path from 'node:path';
import { loadManifest, type Manifest } from '@turnpike/platform';
import type { Report } from './report.ts';

const root = path.resolve(import.meta.dirname, '..');

export type ServiceName = 'flight-ops' | 'delay-monitor';

export interface RunningService {
  /** Resolves when it has ended by itself; rejects when it failed. */
  readonly done: Promise<void>;
  /** As an orchestrator does: drains, commits, leaves. */
  stop(): Promise<void>;
}

export interface StoredEvent {
  readonly topic: string;
  readonly value: Buffer;
}

/** The cluster that the quickstart runs on: real brokers, or memory. */
export interface Backend extends AsyncDisposable {
  start(service: ServiceName, report: Report): Promise<RunningService>;
  /** Every record of these topics, read by the administrator straight from the cluster. */
  readBack(topics: readonly string[]): Promise<readonly StoredEvent[]>;
  /** Records of the topic that the group has not committed. */
  uncommitted(group: string, topic: string): Promise<number>;
  /** Who tries in bypass(). */
  readonly bypasser: string;
  /** Tries to write to a topic as flight-ops, but past its grant; the broker's answer. */
  bypass(topic: string): Promise<string>;
}

/** Of each service: its manifest, and the folder that its grant and variables go to. */
export interface Workplace {
  readonly manifest: Manifest;
  readonly folder: string;
}

/** The manifests as the platform has applied them. flights.cancelled stands in flight-ops' turnpike.yaml, but its use is not applied yet: no grant and no ACL has it. */
export function workplaces(): readonly Workplace[] {
  return (['flight-ops', 'delay-monitor'] as const).map((name) => {
    const manifest = loadManifest(path.join(root, name, 'turnpike.yaml'));
    const services = manifest.services.map((s) => ({ ...s, produces: s.produces.filter((p) => p.topic !== 'flights.cancelled') }));
    return { manifest: { ...manifest, services }, folder: path.join(root, name, '.turnpike', 'local') };
  });
}

export const programOf = (service: ServiceName): string => path.join(root, service, 'main.ts');
