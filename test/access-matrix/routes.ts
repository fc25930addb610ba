/**
 * The server's routes as the matrix tries them: each action of a kind is one, and each has a request that would be carried out
 * if nothing stood against it. What a route is not told of here it gets an empty body and the things of its path.
 */
import { kinds } from '#libs/kinds';
import type { Route } from '../../apps/api/http-server.js';
import { type Belongings, placeholder, type Thing } from './belongings.js';

export interface TriedRoute {
  /** `POST /v1/instances/{id}/start`. */
  name: string;
  method: string;
  template: string;
  plural: string;
  action: string | undefined;
  parameters: string[];
  /** HEAD that Fastify has beside each GET, by the same handler. */
  isShadow: boolean;
}

export interface Body {
  json?: object;
  bytes?: Uint8Array;
  headers?: Record<string, string>;
}

/** Answered to anybody: nothing there is a tenant's. Whatever else is open to all is a failure of the matrix. */
const open = ['/v1/openapi.json', '/docs', '/docs/:file', '/.well-known/oauth-protected-resource'];

export const isOpen = ({ template }: TriedRoute) => open.includes(template.replaceAll(/\{(\w+)\}/g, ':$1'));

export function triedRoutes(routes: readonly Route[]): TriedRoute[] {
  const all = routes.flatMap(({ method, url }) =>
    (url.includes(':action') ? actionsOf(url) : [url]).map((path) => ({
      ...routeOf(method, path),
      isShadow: method === 'HEAD' && routes.some((other) => other.url === url && other.method === 'GET'),
    })),
  );
  return [...new Map(all.map((route) => [route.name, route])).values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}

function actionsOf(url: string): string[] {
  const plural = url.split('/')[2];
  const kind = kinds.find((one) => one.plural === plural);
  return Object.keys(kind?.actions ?? {}).map((action) => url.replace(':action', action));
}

function routeOf(method: string, url: string): Omit<TriedRoute, 'isShadow'> {
  const parts = url.split('/');
  const template = url.replaceAll(/:(\w+)/g, '{$1}');
  return {
    name: `${method} ${template}`,
    method,
    template,
    plural: parts[2] ?? '',
    action: parts[4],
    parameters: parts.filter((part) => part.startsWith(':')).map((part) => part.slice(1)),
  };
}

/** What stands in the path for each parameter, the first one first. */
export function targetsOf(
  { plural, parameters, template }: TriedRoute,
  { things, lease, job, alarm, deletedDisk }: Belongings,
): Thing[] {
  return parameters.map((parameter) => {
    if (parameter === 'lease') return { plural: 'leases', id: lease, name: lease };
    if (parameter === 'network') return things.networks!;
    if (plural === 'jobs') return { plural, id: job, name: job };
    if (plural === 'alarms') return { plural, id: alarm, name: alarm };
    if (plural === 'deleted-disks') return deletedDisk;
    const thing = things[plural];
    if (!thing) throw new Error(`Say in test/access-matrix/routes.ts what {${parameter}} of ${template} is.`);
    return thing;
  });
}

export function pathOf({ template, parameters }: TriedRoute, values: readonly string[]): string {
  return parameters.reduce((text, name, i) => text.replace(`{${name}}`, values[i]!), template);
}

const isBulk = (template: string) => template.split('/').length === 3;

export const isList = ({ method, template }: TriedRoute) =>
  method === 'GET' && /^\/v1\/([^{]*|.*\/leases)$/.test(template);
export const isBulkRemoval = ({ method, template }: TriedRoute) => method === 'DELETE' && isBulk(template);

let made = 0;

/** About what somebody may. */
export const isQuestion = ({ method, template }: TriedRoute) =>
  method === 'GET' && template === '/v1/permissions/explain';

/** A body that would be taken, of a tenant's own things. */
export function bodyOf({ method, template, plural, action }: TriedRoute, { recipes, world }: Belongings): Body {
  const recipe = recipes[plural];
  if (template.endsWith('/attach') && method === 'GET') return { headers: handshake };
  if (method === 'PUT') return { bytes: placeholder() };
  if (method === 'PATCH' && recipe) return { json: recipe.patch };
  if (method !== 'POST') return {};
  if (action === 'leases') return { json: { mac: '52:54:00:00:00:99' } };
  if (plural === 'deleted-disks') return { json: { name: 'again' } };
  if (action === undefined && recipe) return { json: recipe.create(world, `never-${++made}`) };
  return { json: recipe?.actions?.find(([name]) => name === action)?.[1] ?? {} };
}

/** RFC 6455 §4.1. */
const handshake = {
  connection: 'Upgrade',
  upgrade: 'websocket',
  'sec-websocket-version': '13',
  'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
};
