/**
 * What must be true of a whole installation once nothing is under way, whatever has happened to it: asked of the database over
 * all tenants, and of the simulated nodes. Knows nothing of how it came to be so.
 */
import { existsSync, readFileSync } from 'node:fs';
import pg from 'pg';
import type { Stack } from './stack.js';
import { until } from './until.js';

/** A node with the simulated machine, and the folder of its agent's state. */
export interface SimNodeState {
  name: string;
  stateDir: string;
}

/** Each asks for what must not be there; a row of an answer is a fault. */
const forbidden: Record<string, string> = {
  'a job that has not ended': `
    select tenant_id, id, kind, resource_name, action, state, phase, message, failures, run_at, lease_until
    from job where finished_at is null`,
  'a step that has not ended, of a job that has': `
    select s.tenant_id, s.job_id, s.name, s.state from job_step s join job j on j.tenant_id = s.tenant_id and j.id = s.job_id
    where j.finished_at is not null and s.state in ('running', 'waiting', 'undoing')`,
  'a resource on its way without a job': `
    select r.tenant_id, r.id, r.kind, r.name, r.state from resource r where r.state not in ('ready', 'failed')
      and not exists (select from job j where j.tenant_id = r.tenant_id and j.resource_id = r.id and j.finished_at is null)`,
  'a name twice': `
    select tenant_id, kind, name, count(*) from resource group by tenant_id, kind, name having count(*) > 1`,
  'an address twice in a network': `
    select tenant_id, network_id, ip, count(*) from lease group by tenant_id, network_id, ip having count(*) > 1`,
  'a count of addresses that is not that of the leases': `
    select n.tenant_id, n.id, n.address_used, (select count(*) from lease l where l.tenant_id = n.tenant_id and l.network_id = n.id)
    from network n where n.address_used <>
      (select count(*) from lease l where l.tenant_id = n.tenant_id and l.network_id = n.id)`,
  'a quota that is not what is used': 'select * from quota_drift',
  'room on a node that is not the sum of what is taken there':
    "select 'system' as tenant_id, d.* from node_room_drift d",
  'an open alarm of a job that has ended': `
    select a.tenant_id, a.code, a.message from alarm a join job j on j.tenant_id = a.tenant_id and j.id = a.job_id
    where a.cleared_at is null and j.finished_at is not null`,
  'a reservation of nothing': `
    select v.* from reservation v left join resource r on r.tenant_id = v.tenant_id and r.id = v.resource_id
    where r.id is null and not exists (select from deleted_disk d where d.tenant_id = v.tenant_id and d.id = v.resource_id)`,
  'a machine without its room': `
    select i.tenant_id, i.id, i.node_id, i.vcpus, i.memory_mib, v.node_id, v.vcpus, v.memory_mib
    from instance i join resource r on r.tenant_id = i.tenant_id and r.id = i.id and r.state = 'ready'
    left join reservation v on v.tenant_id = i.tenant_id and v.resource_id = i.id
    where (v.node_id, v.vcpus, v.memory_mib) is distinct from (i.node_id, i.vcpus, i.memory_mib)`,
  'a placement of nothing': `
    select p.tenant_id, p.resource_id, p.kind, p.node_id, p.present from placement p
    left join resource r on r.tenant_id = p.tenant_id and r.id = p.resource_id
    where r.id is null and not exists (select from deleted_disk d where d.tenant_id = p.tenant_id and d.id = p.resource_id)`,
  'a ready resource that its node has not made': `
    select p.tenant_id, p.resource_id, p.kind, p.node_id, p.present, p.phase, p.revision, p.observed_revision, p.failure
    from placement p join resource r on r.tenant_id = p.tenant_id and r.id = p.resource_id and r.state = 'ready'
    where (not p.present or p.observed_revision <> p.revision or p.phase <> 'ready')
      and not exists (select from node n where n.id = p.node_id and n.gone_at is not null)`,
  'a ready machine that is placed nowhere': `
    select i.tenant_id, i.id from instance i join resource r on r.tenant_id = i.tenant_id and r.id = i.id and r.state = 'ready'
    where (select count(*) from placement p where p.tenant_id = i.tenant_id and p.resource_id = i.id and p.node_id = i.node_id) <> 1`,
  'a deed that nobody has done': "select tenant_id, id, verb, node_id from deed where state = 'asked'",
  'an event without a number': 'select tenant_id, id from event where number is null',
  'numbers of events with gaps': `
    select k.tenant_id, k.last, k.pruned, count(e.number) from event_counter k left join event e using (tenant_id)
    group by k.tenant_id, k.last, k.pruned
    having count(e.number) <> k.last - k.pruned or count(distinct e.number) <> count(e.number) or max(e.number) > k.last`,
  'an event whose number is not in the order of its change': `
    select * from (select tenant_id, number, id, lag(id) over (partition by tenant_id, resource_id, job_id order by number) as before from event) o
    where o.before > o.id`,
};

interface Placed {
  tenant_id: string;
  resource_id: string;
  kind: string;
  node: string;
  phase: string;
  power_state: string | null;
}

/** Until there is no fault any more; throws with those that stay. What nodes report may still be on its way at first. */
export async function untilWhole(stack: Stack, nodes: readonly SimNodeState[], limitMs = 120_000): Promise<void> {
  let faults: string[] = [];
  const look = async () => {
    faults = await faultsOf(stack, nodes);
    return faults.length === 0;
  };
  await until('a whole installation', look, limitMs, 500).catch((error: Error) => {
    throw new Error(`${error.message}:\n${faults.slice(0, 50).join('\n')}`);
  });
}

export interface JobFact {
  id: string;
  request_id: string | null;
  resource_id: string;
  action: string;
  finished_at: Date | null;
}

/** All jobs of a tenant. */
export async function jobsOf(stack: Stack, tenant: string): Promise<JobFact[]> {
  const client = await operator(stack);
  try {
    const query = 'select id, request_id, resource_id, action, finished_at from job where tenant_id = $1';
    return (await client.query<JobFact>(query, [tenant])).rows;
  } finally {
    await client.end();
  }
}

/** All faults, each in words with the row that shows it. */
export async function faultsOf(stack: Stack, nodes: readonly SimNodeState[] = []): Promise<string[]> {
  const client = await operator(stack);
  try {
    const faults: string[] = [];
    for (const [what, query] of Object.entries(forbidden)) {
      const { rows } = await client.query(query);
      faults.push(...rows.map((row) => `${what}: ${JSON.stringify(row)}`));
    }
    const { rows: placed } = await client.query<Placed>(`
      select p.tenant_id, p.resource_id, p.kind, n.name as node, p.phase, i.power_state from placement p join node n on n.id = p.node_id
      left join instance i on i.tenant_id = p.tenant_id and i.id = p.resource_id
      where p.present`);
    return [...faults, ...nodes.flatMap((node) => disagreements(node, placed))];
  } finally {
    await client.end();
  }
}

/** Where a node has what the database does not place there, or lacks what it does, or in another state. */
function disagreements({ name, stateDir }: SimNodeState, placed: readonly Placed[]): string[] {
  const file = `${stateDir}/sim-state.json`;
  // Without one it has never made anything.
  const state = JSON.parse(existsSync(file) ? readFileSync(file, 'utf8') : '{}') as Record<string, [string, any][]>;
  const kinds = { networks: 'network', disks: 'disk', snapshots: 'snapshot', instances: 'instance' };
  const here = new Map(
    Object.entries(kinds).flatMap(([map, kind]) => (state[map] ?? []).map(([id, it]) => [id, { kind, it }] as const)),
  );
  const wanted = new Map(placed.filter(({ node }) => node === name).map((one) => [one.resource_id, one]));
  const faults: string[] = [];
  for (const [id, { kind, it }] of here) {
    const one = wanted.get(id);
    if (!one) faults.push(`${name} has the ${kind} ${id}, which is not placed there: ${JSON.stringify(it.ref)}`);
    else if (kind === 'instance' && one.phase === 'ready' && one.power_state !== it.powerState)
      faults.push(`${name} has the machine ${id} ${it.powerState}; the database says ${one.power_state}`);
  }
  for (const [id, { kind, phase }] of wanted)
    if (phase === 'ready' && !here.has(id)) faults.push(`${name} lacks the ${kind} ${id}`);
  return faults;
}

/** The role that spans tenants. */
async function operator(stack: Stack): Promise<pg.Client> {
  const { dbOperator } = JSON.parse(readFileSync(stack.dev.config, 'utf8'));
  const client = new pg.Client({ connectionString: dbOperator });
  await client.connect();
  await client.query('set role rhyzome_operator');
  return client;
}
