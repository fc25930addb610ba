/**
 * Another tenant's administrator on what is not his. Each try is made twice, once with what is the other tenant's and once with
 * what nobody has: the two must not differ in status, headers, body (but for what was asked) or the statements that they cost.
 */
import { isDeepStrictEqual } from 'node:util';
import { expect } from 'vitest';
import { kinds } from '#libs/kinds';
import type { Belongings, Thing } from './belongings.js';
import { type Case, isChange, isNothing } from './cases.js';
import type { Ask, Lab, Told } from './lab.js';
import { referencesOf, withReference } from './references.js';
import { type Body, bodyOf, isBulkRemoval, isList, isOpen, pathOf, type TriedRoute, targetsOf } from './routes.js';

const ABSENT_ID = '01890000-0000-7000-8000-00000000abcd';

/** As long as the name of what is tried, so that nothing differs but whether it is there. */
const absentOf = ({ name, id }: Thing): Thing => ({
  plural: '',
  id: ABSENT_ID,
  name: name === id ? ABSENT_ID : name.replace('victim', 'absent'),
});

type Probe = Omit<Ask, 'token'>;

/** The same request on two things, and the words in which they differ. */
interface Pair {
  foreign: Probe;
  absent: Probe;
  words: [string, string][];
}

type Pairs = (route: TriedRoute) => Pair[] | Promise<Pair[]>;

const isRefusal = ({ status }: Told) => status >= 400 && status < 500 && status !== 401;
const isRefusalOrNothing = (told: Told, route: TriedRoute) =>
  told.status === 200 ? isNothing(told, route) : isRefusal(told);
const isHidden = (told: Told) => told.status === 404;

export function foreignCases(lab: Lab): Case[] {
  const { victim, attacker } = lab;
  const withPath = (route: TriedRoute, values: string[], more: Partial<Probe> = {}): Probe => {
    const body: Body = bodyOf(route, attacker);
    const headers = { ...body.headers, ...more.headers };
    return { method: route.method, ...body, ...more, path: pathOf(route, values), headers };
  };

  /** The path names it; `isInner`: only its last parameter, of a thing of one's own. */
  const inPath =
    (
      key: 'id' | 'name',
      isInner: boolean,
      more: (thing: Thing) => Promise<Partial<Probe>> | Partial<Probe> = () => ({}),
    ): Pairs =>
    async (route) => {
      const targets = targetsOf(route, victim);
      const own = targetsOf(route, attacker);
      const isPlain = isInner ? targets.length < 2 : targets.length === 0;
      // Of some kinds every tenant has one of the same name.
      if (targets.some((target, i) => target[key] === own[i]![key])) return [];
      if (isPlain || (key === 'name' && targets.every(({ id, name }) => id === name))) return [];
      const kept = isInner ? own.slice(0, -1) : [];
      const tried = targets.slice(kept.length);
      const values = (things: Thing[]) => [...kept, ...things].map((thing) => thing[key]);
      const absent = tried.map(absentOf);
      const further = await more(tried[0]!);
      const words = tried.map(({ [key]: word }, i): [string, string] => [word, absent[i]![key]]);
      return [
        { foreign: withPath(route, values(tried), further), absent: withPath(route, values(absent), further), words },
      ];
    };

  const path = (name: string, pairs: Pairs, means: Case['means'] = () => true): Case =>
    compared(lab, name, pairs, isHidden, (route) => route.parameters.length > 0 && means(route));

  return [
    path('foreign by id', inPath('id', false)),
    path('foreign by name', inPath('name', false)),
    path('foreign by id, below an own one', inPath('id', true)),
    path(
      'foreign, with its ETag in If-Match',
      inPath('id', false, (thing) => ifMatch(lab, thing)),
      isChange,
    ),
    compared(lab, 'foreign in the body, by id', inBody(lab, 'id'), isRefusal, isChange),
    compared(lab, 'foreign in the body, by name', inBody(lab, 'name'), isRefusal, isChange),
    compared(lab, 'foreign tag in a selector', inSelector(lab), isRefusalOrNothing, isSelection),
    compared(lab, 'foreign id in a filter', inFilter(lab), isRefusalOrNothing, isSelection),
    compared(lab, 'foreign page token', inPageToken(lab), isRefusal, isList),
    compared(
      lab,
      'foreign event cursor',
      inCursor(lab),
      isRefusalOrNothing,
      ({ template }) => template === '/v1/events',
    ),
    compared(lab, 'foreign idempotency key', inKey(lab, withPath), isRefusal, isChange),
  ];
}

const isSelection = (route: TriedRoute) => isList(route) || isBulkRemoval(route);

function compared(lab: Lab, name: string, pairs: Pairs, holds: Case['holds'], means: Case['means']): Case {
  return {
    name,
    isFree: false,
    means: (route) => !isOpen(route) && means(route),
    holds,
    ask: async (route) => {
      const told: Told[] = [];
      for (const pair of await pairs(route)) {
        // Something else may have made the one of the two ask more, e.g. news of permissions; a wall's leak comes again.
        const [there, nowhere] = (await faces(lab, pair, false)) ?? (await faces(lab, pair, true))!;
        expect(there.face, `${route.name}: ${name}`).toEqual(nowhere.face);
        told.push(there.told);
      }
      return told;
    },
  };
}

interface Seen {
  told: Told;
  face: object;
}

/** What comes of both; undefined where it differs, unless that is wanted. */
async function faces(lab: Lab, { foreign, absent, words }: Pair, isLast: boolean): Promise<[Seen, Seen] | undefined> {
  const seen: [Seen, Seen] = [await seenOf(lab, foreign, words), await seenOf(lab, absent, words)];
  return isLast || isDeepStrictEqual(seen[0].face, seen[1].face) ? seen : undefined;
}

async function seenOf(lab: Lab, probe: Probe, words: [string, string][]): Promise<Seen> {
  const recording = await recorded(lab, probe);
  return { told: recording.told, face: faceOf(recording, words) };
}

interface Recorded {
  told: Told;
  statements: string[];
}

async function recorded(lab: Lab, probe: Probe): Promise<Recorded> {
  lab.statements.length = 0;
  const told = await lab.ask({ ...probe, token: lab.attacker.token });
  return { told, statements: [...lab.statements] };
}

const changing = ['date', 'x-request-id', 'ratelimit'];

/** All that the one who asked can see, and what it cost, without the words that he said himself. */
function faceOf({ told, statements }: Recorded, words: [string, string][]) {
  const plain = (text: string) =>
    words
      .flat()
      .reduce((rest, word) => rest.replaceAll(word, '<asked>').replaceAll(encodeURIComponent(word), '<asked>'), text)
      .replaceAll(String(told.headers['x-request-id']), '<request>');
  const headers = Object.entries(told.headers).filter(([name]) => !changing.includes(name));
  return {
    status: told.status,
    headers: headers.map(([name, value]) => `${name}: ${plain(String(value))}`),
    text: plain(told.text),
    statements,
  };
}

async function ifMatch(lab: Lab, { plural, id }: Thing): Promise<Partial<Probe>> {
  const { headers } = await lab.ask({ method: 'GET', path: `/v1/${plural}/${id}`, token: lab.victim.token });
  return { headers: { 'if-match': headers.etag ?? '"1"' } };
}

/** Wherever a body may name something, something of the other tenant's: beside what is named there already, and in its place. */
function inBody(lab: Lab, key: 'id' | 'name'): Pairs {
  const { attacker, victim, description } = lab;
  return (route) => {
    const values = targetsOf(route, attacker).map(({ id }) => id);
    const { json = {} } = bodyOf(route, attacker);
    const probe = (body: object): Probe => ({ method: route.method, path: pathOf(route, values), json: body });
    return referencesOf(description, route).flatMap((place) => {
      const foreign = victim.things[place.plural ?? ''] ?? victim.things.networks!;
      const absent = absentOf(foreign);
      return (place.siblings.length > 0 ? [false, true] : [false]).map((alone): Pair => {
        const naming = (value: string) => probe(withReference(json, place, value, alone));
        return { foreign: naming(foreign[key]), absent: naming(absent[key]), words: [[foreign[key], absent[key]]] };
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

function inSelector(lab: Lab): Pairs {
  return (route) => {
    const [foreign, absent] = [`of=victim-${route.plural}`, `of=absent-${route.plural}`];
    const probe = (tagSelector: string) => asked(route, lab.attacker, { tagSelector });
    return [{ foreign: probe(foreign), absent: probe(absent), words: [[foreign, absent]] }];
  };
}

/** Every filter of the route's kind that takes an id, and `resource` where there is one, with every thing that there is. */
function inFilter(lab: Lab): Pairs {
  return (route) => {
    const kind = kinds.find(({ plural }) => plural === route.plural);
    const own = Object.entries(kind?.filters ?? {}).filter(([, { type }]) => type === 'uuid');
    const filters = own.length > 0 || kind ? own.map(([name]) => name) : ['resource', 'resourceId'];
    return filters.map((name) => {
      const { id } = lab.victim.things[`${name}s`] ?? lab.victim.things.networks!;
      const query = (value: string) => ({ [name]: value, ...(isBulkRemoval(route) && { tagSelector: '!none' }) });
      return {
        foreign: asked(route, lab.attacker, query(id)),
        absent: asked(route, lab.attacker, query(ABSENT_ID)),
        words: [[id, ABSENT_ID]],
      };
    });
  };
}

function inPageToken(lab: Lab): Pairs {
  return async (route) => {
    const probeOf = (query: Record<string, string>, whose = lab.attacker) => asked(route, whose, query);
    const first = await lab.ask({ ...probeOf({ pageSize: '1' }, lab.victim), token: lab.victim.token });
    const token: string | undefined = first.body?.nextPageToken;
    if (!token) return [];
    const absent = `${'A'.repeat(22)}${token.slice(22)}`;
    const probe = (pageToken: string) => probeOf({ pageSize: '1', pageToken });
    return [{ foreign: probe(token), absent: probe(absent), words: [[token, absent]] }];
  };
}

/** Cursors are numbers of the tenant's own: what is another's place in time shows nothing of it. */
function inCursor(lab: Lab): Pairs {
  return async (route) => {
    const foreign = await lab.lastEvent();
    const absent = `${Number(foreign) + 1_000_000}`;
    const probe = (since: string) => asked(route, lab.attacker, { since });
    return [{ foreign: probe(foreign), absent: probe(absent), words: [[foreign, absent]] }];
  };
}

/** A key under which the other tenant has an answer, of a user with the same `sub`; on what is refused anyway. */
function inKey(lab: Lab, withPath: (route: TriedRoute, values: string[], more: Partial<Probe>) => Probe): Pairs {
  return (route) => {
    const values = route.parameters.map(() => ABSENT_ID);
    const probe = (key: string) => withPath(route, values, { json: {}, headers: { 'idempotency-key': key } });
    return [{ foreign: probe(lab.foreignKey), absent: probe('nobodys'), words: [[lab.foreignKey, 'nobodys']] }];
  };
}
