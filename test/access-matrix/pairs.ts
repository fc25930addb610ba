/**
 * Requests on what somebody must not know of, each beside the same request on what nobody has: by path, body, selector, filter,
 * page token, event cursor and idempotency key.
 */
import { kinds } from '#libs/kinds';
import type { Belongings, Thing } from './belongings.js';
import type { Ask, Lab } from './lab.js';
import { referencesOf, withReference } from './references.js';
import { bodyOf, isBulkRemoval, pathOf, type TriedRoute, targetsOf } from './routes.js';

const ABSENT_ID = '01890000-0000-7000-8000-00000000abcd';

/** As long as the name of what is tried, so that nothing differs but whether it is there. */
const absentOf = ({ name, id }: Thing): Thing => ({
  plural: '',
  id: ABSENT_ID,
  name: name === id ? ABSENT_ID : name.replace('victim', 'absent'),
});

export type Probe = Omit<Ask, 'token'>;

/** The same request on two things, and the words in which they differ. */
export interface Pair {
  hidden: Probe;
  absent: Probe;
  words: [string, string][];
}

export type Pairs = (route: TriedRoute) => Pair[] | Promise<Pair[]>;

/** Who asks. */
export interface Asker {
  lab: Lab;
  token: string;
  /** What his requests name beside what is tried. */
  own: Belongings;
}

/** A request on things of the path that would be carried out. */
export function onPath(own: Belongings, route: TriedRoute, values: string[], more: Partial<Probe> = {}): Probe {
  const body = bodyOf(route, own);
  const headers = { ...body.headers, ...more.headers };
  return { method: route.method, ...body, ...more, path: pathOf(route, values), headers };
}

interface InPath {
  key: 'id' | 'name';
  /** Only the path's last parameter, below a thing of one's own. */
  isInner?: boolean;
  more?: (thing: Thing) => Promise<Partial<Probe>>;
}

export function inPath({ lab, own }: Asker, { key, isInner = false, more }: InPath): Pairs {
  return async (route) => {
    const targets = targetsOf(route, lab.victim);
    const owned = targetsOf(route, own);
    if (targets.length < (isInner ? 2 : 1)) return [];
    if (key === 'name' && targets.every(({ id, name }) => id === name)) return [];
    // Of some kinds every tenant has one of the same name.
    if (own !== lab.victim && targets.some((target, i) => target[key] === owned[i]![key])) return [];
    const kept = isInner ? owned.slice(0, -1) : [];
    const tried = targets.slice(kept.length);
    const absent = tried.map(absentOf);
    const further = await more?.(tried[0]!);
    const probe = (things: Thing[]) =>
      onPath(
        own,
        route,
        [...kept, ...things].map((thing) => thing[key]),
        further,
      );
    const words = tried.map(({ [key]: word }, i): [string, string] => [word, absent[i]![key]]);
    return [{ hidden: probe(tried), absent: probe(absent), words }];
  };
}

/** With the ETag that the thing has, as its owner is told. */
export async function ifMatch(lab: Lab, { plural, id }: Thing): Promise<Partial<Probe>> {
  const { headers } = await lab.ask({ method: 'GET', path: `/v1/${plural}/${id}`, token: lab.victim.token });
  return { headers: { 'if-match': headers.etag ?? '"1"' } };
}

/** Wherever a body may name something, something of the other tenant's: beside what is named there already, and in its place. */
export function inBody({ lab, own }: Asker, key: 'id' | 'name'): Pairs {
  const { victim, description } = lab;
  return (route) => {
    const values = targetsOf(route, own).map(({ id }) => id);
    const { json = {} } = bodyOf(route, own);
    const probe = (body: object): Probe => ({ method: route.method, path: pathOf(route, values), json: body });
    return referencesOf(description, route).flatMap((place) => {
      const hidden = victim.things[place.plural ?? ''] ?? victim.things.networks!;
      const absent = absentOf(hidden);
      return (place.siblings.length > 0 ? [false, true] : [false]).map((alone): Pair => {
        const naming = (value: string) => probe(withReference(json, place, value, alone));
        return { hidden: naming(hidden[key]), absent: naming(absent[key]), words: [[hidden[key], absent[key]]] };
      });
    });
  };
}

function asked(route: TriedRoute, whose: Belongings, query: Record<string, string>): Probe {
  const path = pathOf(
    route,
    targetsOf(route, whose).map(({ id }) => id),
  );
  return { method: route.method, path: `${path}?${new URLSearchParams(query)}` };
}

export function inSelector({ own }: Asker): Pairs {
  return (route) => {
    const [foreign, absent] = [`of=victim-${route.plural}`, `of=absent-${route.plural}`];
    const probe = (tagSelector: string) => asked(route, own, { tagSelector });
    return [{ hidden: probe(foreign), absent: probe(absent), words: [[foreign, absent]] }];
  };
}

/** Every filter of the route's kind that takes an id, and `resource` where there is one, with every thing that there is. */
export function inFilter({ lab, own }: Asker): Pairs {
  return (route) => {
    const kind = kinds.find(({ plural }) => plural === route.plural);
    const byId = Object.entries(kind?.filters ?? {}).filter(([, { type }]) => type === 'uuid');
    const filters = kind ? byId.map(([name]) => name) : ['resource', 'resourceId'];
    return filters.map((name) => {
      const { id } = lab.victim.things[`${name}s`] ?? lab.victim.things.networks!;
      const query = (value: string) => ({ [name]: value, ...(isBulkRemoval(route) && { tagSelector: '!none' }) });
      return {
        hidden: asked(route, own, query(id)),
        absent: asked(route, own, query(ABSENT_ID)),
        words: [[id, ABSENT_ID]],
      };
    });
  };
}

export function inPageToken({ lab, own }: Asker): Pairs {
  return async (route) => {
    const probeOf = (query: Record<string, string>, whose = own) => asked(route, whose, query);
    const first = await lab.ask({ ...probeOf({ pageSize: '1' }, lab.victim), token: lab.victim.token });
    const token: string | undefined = first.body?.nextPageToken;
    if (!token) return [];
    const absent = `${'A'.repeat(22)}${token.slice(22)}`;
    const probe = (pageToken: string) => probeOf({ pageSize: '1', pageToken });
    return [{ hidden: probe(token), absent: probe(absent), words: [[token, absent]] }];
  };
}

/** Cursors are numbers of the tenant's own: what is another's place in time shows nothing of it. */
export function inCursor({ lab, own }: Asker): Pairs {
  return async (route) => {
    const foreign = await lab.lastEvent();
    const absent = `${Number(foreign) + 1_000_000}`;
    const probe = (since: string) => asked(route, own, { since });
    return [{ hidden: probe(foreign), absent: probe(absent), words: [[foreign, absent]] }];
  };
}

/** A key under which the other tenant has an answer, of a user with the same `sub`; on what is refused anyway. */
export function inKey({ lab, own }: Asker): Pairs {
  return (route) => {
    const values = route.parameters.map(() => ABSENT_ID);
    const probe = (key: string) => onPath(own, route, values, { json: {}, headers: { 'idempotency-key': key } });
    return [{ hidden: probe(lab.foreignKey), absent: probe('nobodys'), words: [[lab.foreignKey, 'nobodys']] }];
  };
}

/** In the parameters of a question about permissions: by id, and by kind and name. */
export function inQuestion({ lab, own }: Asker): Pairs {
  return (route) => {
    const { id, name } = lab.victim.things.networks!;
    const { id: user } = lab.victim.things.users!;
    const about = (subject: string) => asked(route, own, { verb: 'read', resource: 'network', subject });
    const probe = (resource: string) => asked(route, own, { verb: 'read', resource });
    const [byName, absentName] = [`network/${name}`, `network/${name.replace('victim', 'absent')}`];
    return [
      { hidden: probe(id), absent: probe(ABSENT_ID), words: [[id, ABSENT_ID]] },
      { hidden: probe(byName), absent: probe(absentName), words: [[name, absentName.slice('network/'.length)]] },
      { hidden: about(`user/${user}`), absent: about(`user/${ABSENT_ID}`), words: [[user, ABSENT_ID]] },
    ];
  };
}
