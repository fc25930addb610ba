/** Why no node could be chosen, in numbers and in words: what is short, which requirement no node with room satisfies, what would fit. */
import { sql } from 'kysely';
import { type ResourceCore, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';

export interface Demand {
  vcpus: number;
  memoryMiB: number;
  diskGiB: number;
}

/** What a node must be to be chosen, with the words for who asked for it. */
export interface Requirement {
  /** What asks for it, e.g. `placement.affinity`. */
  name: string;
  /** What it asks for, e.g. a selector. */
  asks: string;
  /** One of these nodes; undefined: any. */
  only?: ReadonlySet<string>;
  /** None of these. */
  never?: ReadonlySet<string>;
}

interface Room extends Demand {
  node: string;
}

interface Choice {
  required: readonly Requirement[];
  stays: boolean;
}

const measures = ['vcpus', 'memoryMiB', 'diskGiB'] as const;

/** The refusal; asked for only after a node could not be found. */
export async function noCapacity(
  tx: Tx,
  who: Pick<ResourceCore, 'id' | 'kind'>,
  demand: Demand,
  choice: Choice,
): Promise<RhyzomeError> {
  const { rows } = await sql<Room>`
    select node_id as node, vcpus, memory_mib as "memoryMiB", disk_gib as "diskGiB"
    from free_room(${who.id}, ${who.kind}, ${choice.stays})`.execute(tx);
  return explain(rows, demand, choice);
}

/** The same, from what is free where. */
export function explain(rooms: readonly Room[], demand: Demand, { required, stays }: Choice): RhyzomeError {
  const satisfying = rooms.filter((room) => required.every((requirement) => allows(requirement, room)));
  // What stays on its node is not told of others.
  if (stays) return tooLittle(satisfying, demand, 'Its node does not have the room');
  if (rooms.length === 0) {
    return new RhyzomeError('no_capacity', 'No node takes new machines now.', { extensions: { nodes: 0 } });
  }
  const withRoom = rooms.filter((room) => hasRoom(room, demand));
  if (withRoom.length === 0) return tooLittle(rooms, demand, 'No node has the room');
  const counted = required.map((requirement) => ({
    name: requirement.name,
    asks: requirement.asks,
    nodes: rooms.filter((room) => allows(requirement, room)).length,
    withRoom: withRoom.filter((room) => allows(requirement, room)).length,
  }));
  const unsatisfied = counted.filter(({ withRoom: count }) => count === 0);
  const one = withRoom.length === 1;
  const have = one ? '1 node has the room' : `${withRoom.length} nodes have the room`;
  const but = one ? ', but it does not satisfy' : ', but none of them satisfies';
  const words = ({ name, asks }: { name: string; asks: string }) => `${name} (${asks})`;
  const reason =
    unsatisfied.length > 0
      ? `${but} ${unsatisfied.map(words).join(', or ')}.`
      : counted.length > 0
        ? `${but} all of ${counted.map(words).join(', ')}.`
        : ' by now; ask again.';
  const wouldFit = largest(satisfying);
  const where = required.length > 0 && satisfying.length > 0 ? ` Where all is satisfied, ${atMost(wouldFit)}.` : '';
  return new RhyzomeError('no_capacity', `${have}${reason}${where}`, {
    extensions: { nodes: rooms.length, withRoom: withRoom.length, requirements: counted, short: [], wouldFit },
  });
}

function tooLittle(rooms: readonly Room[], demand: Demand, sentence: string): RhyzomeError {
  const wouldFit = largest(rooms);
  const short = measures.filter((measure) => demand[measure] > wouldFit[measure]);
  const what =
    short.length > 0 ? `${short.join(', ')} ${short.length === 1 ? 'is' : 'are'} short` : 'not all of it on one node';
  return new RhyzomeError('no_capacity', `${sentence}: ${what}. ${capitalized(atMost(wouldFit))}.`, {
    extensions: { nodes: rooms.length, withRoom: 0, short, wouldFit },
  });
}

function allows({ only, never }: Requirement, { node }: Room): boolean {
  return (only?.has(node) ?? true) && !(never?.has(node) ?? false);
}

function hasRoom(room: Demand, demand: Demand): boolean {
  return measures.every((measure) => demand[measure] <= room[measure]);
}

/** The most of each measure that one node has; not always all of it on the same. */
function largest(rooms: readonly Room[]): Demand {
  const most = (measure: keyof Demand) => Math.max(0, ...rooms.map((room) => room[measure]));
  return { vcpus: most('vcpus'), memoryMiB: most('memoryMiB'), diskGiB: most('diskGiB') };
}

function atMost({ vcpus, memoryMiB, diskGiB }: Demand): string {
  return `at most ${vcpus} vcpus, ${memoryMiB} MiB and ${diskGiB} GiB would fit`;
}

function capitalized(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
