/**
 * The states of a node. What they mean is decided in one place, the function node_state() of the database; here are their
 * names, and how many nodes are in each.
 */
import { sql } from 'kysely';
import type { Database } from '#libs/db';

/**
 * `up`: it takes new machines. `cordoned`: it takes none, what is there stays. `draining`: what is there moves away.
 * `unreachable`: silent for 30 s. `gone`: fenced, and it has not come back.
 */
export const nodeStates = ['up', 'cordoned', 'draining', 'unreachable', 'gone'] as const;
export type NodeState = (typeof nodeStates)[number];

/** How many nodes are in each state. */
export async function countNodes(db: Database): Promise<Record<NodeState, number>> {
  const result = await sql<{ state: NodeState; nodes: number }>`
    select node_state(n) as state, count(*)::int as nodes from node n group by 1`.execute(db.operator);
  const counts = Object.fromEntries(nodeStates.map((state) => [state, 0])) as Record<NodeState, number>;
  for (const { state, nodes } of result.rows) counts[state] = nodes;
  return counts;
}
