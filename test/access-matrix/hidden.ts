/**
 * What somebody must not know of: another tenant's things for its administrator, and his own tenant's for a user whose grants do
 * not reach them. Each try is made twice, once with what is there and once with what nobody has: the two must not differ in
 * status, headers, body (but for what was asked) or the statements that they cost.
 */
import { isDeepStrictEqual } from 'node:util';
import { expect } from 'vitest';
import { type Case, isChange, isNothing } from './cases.js';
import { type Lab, type Told, VICTIM } from './lab.js';
import type { Asker, Pair, Pairs, Probe } from './pairs.js';
import * as pairs from './pairs.js';
import { isBulkRemoval, isList, isOpen, isQuestion, type TriedRoute } from './routes.js';

const isRefusal = ({ status }: Told) => status >= 400 && status < 500 && status !== 401;
const isRefusalOrNothing = (told: Told, route: TriedRoute) =>
  told.status === 200 ? isNothing(told, route) : isRefusal(told);
const isRefused = ({ status }: Told) => [403, 404].includes(status);
const isHidden = (told: Told) => told.status === 404;
const isSelection = (route: TriedRoute) => isList(route) || isBulkRemoval(route);
const hasPath = ({ parameters }: TriedRoute) => parameters.length > 0;

export async function hiddenCases(lab: Lab): Promise<Case[]> {
  const { attacker, victim } = lab;
  const foreigner: Asker = { lab, token: attacker.token, own: attacker };
  // Both have much, and not what is tried.
  const nothing = { realm_access: { roles: [] } };
  const neighbour: Asker = {
    lab,
    token: await lab.issuers.token(VICTIM, { ...nothing, sub: 'other-resource' }),
    own: victim,
  };
  const creator: Asker = { lab, token: await lab.issuers.token(VICTIM, { ...nothing, sub: 'creator' }), own: victim };
  const further: Case[] = [
    compared(
      foreigner,
      'foreign by id, below an own one',
      pairs.inPath(foreigner, { key: 'id', isInner: true }),
      isHidden,
      hasPath,
    ),
    compared(foreigner, 'foreign page token', pairs.inPageToken(foreigner), isRefusal, isList),
    compared(
      foreigner,
      'foreign event cursor',
      pairs.inCursor(foreigner),
      isRefusalOrNothing,
      ({ template }) => template === '/v1/events',
    ),
    compared(foreigner, 'foreign idempotency key', pairs.inKey(foreigner), isRefusal, isChange),
  ];
  return [...casesFor('foreign', foreigner, foreigner), ...casesFor('unreadable', neighbour, creator), ...further];
}

/** `maker` may make things of which he names others. */
function casesFor(what: string, asker: Asker, maker: Asker): Case[] {
  const { lab } = asker;
  const path = (name: string, tried: Pairs, means: Case['means']) =>
    compared(asker, `${what}${name}`, tried, isHidden, means);
  return [
    path(' by id', pairs.inPath(asker, { key: 'id' }), hasPath),
    path(' by name', pairs.inPath(asker, { key: 'name' }), hasPath),
    path(
      ', with its ETag in If-Match',
      pairs.inPath(asker, { key: 'id', more: (thing) => pairs.ifMatch(lab, thing) }),
      isChange,
    ),
    compared(maker, `${what} in the body, by id`, pairs.inBody(maker, 'id'), isRefusal, isChange),
    compared(maker, `${what} in the body, by name`, pairs.inBody(maker, 'name'), isRefusal, isChange),
    compared(asker, `${what}’s tag in a selector`, pairs.inSelector(asker), isRefusalOrNothing, isSelection),
    compared(asker, `${what}’s id in a filter`, pairs.inFilter(asker), isRefusalOrNothing, isSelection),
    compared(asker, `${what} in a question about permissions`, pairs.inQuestion(asker), isRefused, isQuestion),
  ];
}

function compared(asker: Asker, name: string, tried: Pairs, holds: Case['holds'], means: Case['means']): Case {
  return {
    name,
    isAlone: true,
    isFree: false,
    means: (route) => !isOpen(route) && means(route),
    holds,
    ask: async (route) => {
      const told: Told[] = [];
      for (const pair of await tried(route)) {
        // Something else may have made the one of the two ask more, e.g. news of permissions; a wall's leak comes again.
        const [there, nowhere] = (await faces(asker, pair, false)) ?? (await faces(asker, pair, true))!;
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
async function faces(
  asker: Asker,
  { hidden, absent, words }: Pair,
  isLast: boolean,
): Promise<[Seen, Seen] | undefined> {
  const seen: [Seen, Seen] = [await seenOf(asker, hidden, words), await seenOf(asker, absent, words)];
  return isLast || isDeepStrictEqual(seen[0].face, seen[1].face) ? seen : undefined;
}

async function seenOf(asker: Asker, probe: Probe, words: [string, string][]): Promise<Seen> {
  const recording = await recorded(asker, probe);
  return { told: recording.told, face: faceOf(recording, words) };
}

interface Recorded {
  told: Told;
  statements: string[];
}

async function recorded({ lab, token }: Asker, probe: Probe): Promise<Recorded> {
  lab.statements.length = 0;
  const told = await lab.ask({ ...probe, token });
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
