/** What each machine uses, from one call to libvirt (virsh(1), domstats). */
import { XMLParser } from 'fast-xml-parser';
import type { Metric } from '#libs/drivers/contract';
import { isActive } from './power.js';
import { numbered, type Stats, stateOf } from './virsh.js';

export interface MetricNames {
  /** Id of the disk that lies there; null: none of ours. */
  diskOf(path: string): string | null;
  /** MAC by the name of the interface's port on this machine. */
  macs: ReadonlyMap<string, string>;
}

/** Disks are labelled by their ids, interfaces by their MACs; a machine that is off has only `up`. */
export function metricsOf(stats: Stats, { diskOf, macs }: MetricNames): Metric[] {
  const up = isActive(stateOf(stats));
  const metrics: Metric[] = [{ name: 'up', type: 'gauge', value: up ? 1 : 0 }];
  if (!up) return metrics;
  const add = (name: string, type: Metric['type'], key: string, factor: number, labels?: Record<string, string>) => {
    const text = stats.get(key);
    if (text !== undefined) metrics.push({ name, type, value: Number(text) * factor, ...(labels && { labels }) });
  };
  add('cpu_seconds_total', 'counter', 'cpu.time', 1e-9);
  add('memory_bytes', 'gauge', 'balloon.rss', 1024);
  for (const n of numbered(stats, 'block')) {
    const disk = diskOf(stats.get(`block.${n}.path`) ?? '');
    if (disk === null) continue;
    add('disk_read_bytes_total', 'counter', `block.${n}.rd.bytes`, 1, { disk });
    add('disk_written_bytes_total', 'counter', `block.${n}.wr.bytes`, 1, { disk });
  }
  for (const n of numbered(stats, 'net')) {
    const mac = macs.get(stats.get(`net.${n}.name`) ?? '');
    if (mac === undefined) continue;
    add('network_received_bytes_total', 'counter', `net.${n}.rx.bytes`, 1, { interface: mac });
    add('network_sent_bytes_total', 'counter', `net.${n}.tx.bytes`, 1, { interface: mac });
  }
  return metrics;
}

const parser = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: '@',
  isArray: (name) => name === 'interface',
});

interface Definition {
  domain?: { devices?: { interface?: { mac: { '@address': string }; target: { '@dev': string } }[] } };
}

/** MAC of each interface by its port, as the definition that we made (domain-xml.ts) has them. */
export function macsOf(definition: string): Map<string, string> {
  const { domain } = parser.parse(definition) as Definition;
  return new Map((domain?.devices?.interface ?? []).map(({ mac, target }) => [target['@dev'], mac['@address']]));
}
