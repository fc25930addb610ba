/**
 * What is tried on every route, and what may come of it. A case says for which routes it means something and what it sends; an
 * answer that is not a wall's is a failure, whatever the committed matrix says.
 */
import { type Bearer, readers, refusedBearers, weakBearers } from './bearers.js';
import { hiddenCases } from './hidden.js';
import { type Lab, SUBJECT, type Told } from './lab.js';
import { bodyOf, isBulkRemoval, isList, isOpen, isQuestion, pathOf, type TriedRoute, targetsOf } from './routes.js';

export interface Case {
  name: string;
  /** It is refused before anything is looked up: it costs no statement, and may be tried beside others. */
  isFree: boolean;
  /** Its statements are counted: nothing may be tried beside it. */
  isAlone: boolean;
  means(route: TriedRoute): boolean;
  /** The answers to all ways in which it is tried; none: it does not mean anything here. Throws where a wall leaks. */
  ask(route: TriedRoute): Promise<Told[]>;
  /** Whether an answer is one of a wall's. */
  holds(told: Told, route: TriedRoute): boolean;
}

/** All of them, with their tokens made. */
export async function casesOf(lab: Lab): Promise<Case[]> {
  const cases: Case[] = [];
  for (const [name, bearerOf] of Object.entries(refusedBearers)) {
    cases.push({ ...withBearer(lab, name, await bearerOf(lab), isUnauthenticated, () => true), isFree: true });
  }
  for (const [name, bearerOf] of Object.entries(weakBearers)) {
    cases.push(withBearer(lab, name, await bearerOf(lab), showsNothing, () => true));
  }
  for (const [name, bearerOf] of Object.entries(readers)) {
    cases.push(withBearer(lab, name, await bearerOf(lab), isForbidden, isChange));
  }
  return [...cases, ...(await hiddenCases(lab))];
}

/** Whoever has a token may ask what it may, and make an API token for himself. */
const isOwn = ({ status, body }: Told, { name }: TriedRoute) =>
  (name === 'POST /v1/apitokens' && status === 202 && body.createdBy !== SUBJECT) ||
  (name === 'GET /v1/permissions' && status === 200 && body.subject !== SUBJECT);

export const isChange = ({ method }: TriedRoute) => !['GET', 'HEAD'].includes(method);

const isUnauthenticated = ({ status, body, headers }: Told, { method }: TriedRoute) =>
  status === 401 &&
  (method === 'HEAD' || body.code === 'unauthenticated') &&
  headers['www-authenticate']?.startsWith('Bearer ') === true;

const isForbidden = (told: Told, route: TriedRoute) =>
  isOwn(told, route) ||
  (isBulkRemoval(route) && isNothing(told, route)) ||
  ([403, 404].includes(told.status) && told.body.code !== undefined);

/** Refused, or a list, stream or summary without anything in it. */
const showsNothing = (told: Told, route: TriedRoute) =>
  isOwn(told, route) || (told.status === 200 ? isNothing(told, route) : [403, 404].includes(told.status));

/** An answer 200 of which nothing can be learnt. */
export function isNothing({ headers, body, text }: Told, route: TriedRoute): boolean {
  if (headers['content-type']?.startsWith('text/event-stream')) return !/^data:/m.test(text);
  if (route.method === 'HEAD') return isList({ ...route, method: 'GET' });
  const items: any[] | undefined = isList(route) || isBulkRemoval(route) ? body?.items : undefined;
  // Global images are everybody's.
  return items?.every(({ visibility }) => visibility === 'global') ?? false;
}

/** The tenant's own request on its own things, by somebody who may not. */
function withBearer(
  lab: Lab,
  name: string,
  { token, headers }: Bearer,
  holds: Case['holds'],
  means: Case['means'],
): Case {
  return {
    name,
    isAlone: false,
    isFree: false,
    means: (route) => !isOpen(route) && means(route),
    holds,
    ask: async (route) => {
      const body = bodyOf(route, lab.victim);
      const targets = targetsOf(route, lab.victim).map(({ id }) => id);
      const asked = {
        ...(isBulkRemoval(route) && { tagSelector: `of=victim-${route.plural}` }),
        ...(isQuestion(route) && { verb: 'read', resource: `network/${lab.victim.things.networks!.name}` }),
      };
      const query = Object.keys(asked).length > 0 ? `?${new URLSearchParams(asked)}` : '';
      const path = pathOf(route, targets) + query;
      return [await lab.ask({ method: route.method, path, token, ...body, headers: { ...body.headers, ...headers } })];
    },
  };
}
