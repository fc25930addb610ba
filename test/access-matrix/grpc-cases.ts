/** Who is tried on every method of gRPC with what, and what may come of it. */
import { kinds } from '#libs/kinds';
import { clientWith } from '../harness/client.js';
import type { Answer, GrpcLab, Method } from './grpc-lab.js';
import { ATTACKER, type Lab, VICTIM } from './lab.js';
import { inBody } from './pairs.js';
import { triedRoutes } from './routes.js';

const ABSENT_ID = '01890000-0000-7000-8000-00000000abcd';

export interface GrpcCase {
  name: string;
  means(method: Method): boolean;
  try(method: Method): Promise<Answer[]>;
  /** What a wall answers with. */
  answers: RegExp;
}

/** Two requests that must not be told apart, and the words in which they differ. */
interface Pair {
  foreign: Record<string, unknown>;
  absent: Record<string, unknown>;
  words: string[];
}

const isOfTenants = ({ service }: Method) => ['ResourceService', 'JobService'].includes(service);
const isNodes = ({ service }: Method) => service === 'NodeService';
const isHolders = ({ service }: Method) => service === 'CertificateService';
const isServers = ({ service }: Method) => service === 'RelayService';

const notLetIn = /^(UNAVAILABLE|UNAUTHENTICATED)\b/;
const forbidden = /^PERMISSION_DENIED forbidden$/;
const hidden = /^NOT_FOUND not_found$/;

export async function grpcCases(lab: Lab, grpc: GrpcLab): Promise<GrpcCase[]> {
  const { victim } = lab;
  const network = victim.things.networks!;
  const good = {
    tenantId: VICTIM,
    kind: 'network',
    id: network.id,
    instanceId: victim.things.instances!.id,
    action: 'start',
    body: victim.recipes.networks!.create(victim.world, 'never'),
    patch: victim.recipes.networks!.patch,
  };
  const by = (caller: string, name: string, answers: RegExp, means: GrpcCase['means']): GrpcCase => ({
    name,
    answers,
    means,
    try: async (method) => [await grpc.call(caller, method, method.service === 'JobService' ? inJobs(good) : good)],
  });
  const inJobs = (fields: typeof good) => ({ ...fields, id: victim.job });
  const everywhere = () => true;
  return [
    by('plaintext', 'no TLS', notLetIn, everywhere),
    by('no certificate', 'no certificate', notLetIn, everywhere),
    by('foreign CA', 'certificate of another CA', notLetIn, everywhere),
    by('expired', 'certificate that has expired', notLetIn, everywhere),
    by('unregistered', 'service that is not registered', forbidden, isOfTenants),
    by('removed', 'service that was removed', forbidden, isOfTenants),
    by('elsewhere', 'service without the tenant', forbidden, isOfTenants),
    by(
      'verbless',
      'service without the verb',
      /^(PERMISSION_DENIED forbidden|NOT_FOUND not_found|OK, empty)$/,
      isOfTenants,
    ),
    by('node', 'a node’s certificate', forbidden, (method) => isOfTenants(method) || isServers(method)),
    by(
      'server',
      'a server’s certificate',
      forbidden,
      (method) => isOfTenants(method) || isNodes(method) || isHolders(method),
    ),
    by('revoked', 'certificate that was revoked', notLetIn, everywhere),
    by('node', 'a node’s certificate, without a request', /^INVALID_ARGUMENT invalid$/, isHolders),
    by('whole', 'a service’s certificate', forbidden, (method) => isNodes(method) || isServers(method)),
    {
      name: 'tenant of the administrators',
      answers: hidden,
      means: isOfTenants,
      try: async (method) => [await grpc.call('whole', method, { ...good, tenantId: 'system' })],
    },
    ...(await foreignCases(lab, grpc)),
  ];
}

async function foreignCases(lab: Lab, grpc: GrpcLab): Promise<GrpcCase[]> {
  const { victim } = lab;
  const jobs = await clientWith(lab.base, victim.token).get('/v1/jobs?pageSize=1');
  const networks = await clientWith(lab.base, victim.token).get('/v1/networks?pageSize=1');
  const tokens: Record<string, string> = {
    JobService: jobs.body.nextPageToken,
    ResourceService: networks.body.nextPageToken,
  };
  const pairs = (
    name: string,
    answers: RegExp,
    field: string,
    of: (method: Method) => Pair[] | Promise<Pair[]>,
    caller = 'elsewhere',
  ) => ({
    name,
    answers,
    means: (method: Method) =>
      isOfTenants(method) && Object.hasOwn(method.definition.requestDeserialize(Buffer.alloc(0)), field),
    try: async (method: Method) => compared(grpc, caller, method, await of(method)),
  });
  const fields = { tenantId: ATTACKER, kind: 'network', action: 'start', pageSize: 1 };
  const named = (key: 'id' | 'name') => (method: Method) =>
    method.service === 'JobService'
      ? [pairOf(fields, 'id', victim.job, ABSENT_ID)].filter(() => key === 'id')
      : kinds.flatMap(({ name, plural, actions }) => {
          const { [key]: word } = victim.things[plural]!;
          const absent = key === 'id' ? ABSENT_ID : word.replace('victim', 'absent');
          const action = Object.keys(actions ?? {})[0] ?? 'none';
          // Of some kinds every tenant has one of the same name.
          if (word === lab.attacker.things[plural]![key]) return [];
          const more = { kind: name, action, patch: victim.recipes[plural]?.patch };
          return [pairOf({ ...fields, ...more }, 'id', word, absent)];
        });
  return [
    pairs('tenant that a service may not act in, and one that is not there', forbidden, 'tenantId', () => [
      pairOf({ ...fields, id: ABSENT_ID }, 'tenantId', VICTIM, 'nobody'),
    ]),
    // A service may act in all tenants; what it may not change is not there either.
    pairs('foreign by id', /^(NOT_FOUND not_found|UNIMPLEMENTED method_not_allowed)$/, 'id', named('id')),
    pairs('foreign by name', /^(NOT_FOUND not_found|UNIMPLEMENTED method_not_allowed)$/, 'id', named('name')),
    pairs('foreign by id in a body', /^(INVALID_ARGUMENT invalid|NOT_FOUND not_found)$/, 'kind', inBodies(lab, 'id')),
    pairs(
      'foreign by name in a body',
      /^(INVALID_ARGUMENT invalid|NOT_FOUND not_found)$/,
      'kind',
      inBodies(lab, 'name'),
    ),
    pairs('foreign tag in a selector', /^OK, empty$/, 'tagSelector', () =>
      kinds.map(({ name, plural }) =>
        pairOf({ ...fields, kind: name }, 'tagSelector', `of=victim-${plural}`, `of=absent-${plural}`),
      ),
    ),
    pairs('foreign event cursor', /^OK, empty$/, 'since', async () => {
      const foreign = await lab.lastEvent();
      return [pairOf(fields, 'since', foreign, `${Number(foreign) + 1_000_000}`)];
    }),
    pairs('foreign page token', /^INVALID_ARGUMENT invalid$/, 'pageToken', ({ service }) => [
      pairOf(fields, 'pageToken', tokens[service]!, `${'A'.repeat(22)}${tokens[service]!.slice(22)}`),
    ]),
    pairs('foreign idempotency key', /^(NOT_FOUND|INVALID_ARGUMENT|UNIMPLEMENTED) /, 'idempotencyKey', () => [
      pairOf({ ...fields, id: ABSENT_ID, body: {} }, 'idempotencyKey', lab.foreignKey, 'nobodys-key'),
    ]),
  ];
}

/** Wherever a body may name something, as over REST: the same bodies in the messages of Create, Update and Act. */
function inBodies(lab: Lab, key: 'id' | 'name') {
  const own = lab.attacker;
  const routesOf: Record<string, (route: { method: string; action?: string; parameters: string[] }) => boolean> = {
    Create: ({ method, parameters }) => method === 'POST' && parameters.length === 0,
    Update: ({ method }) => method === 'PATCH',
    Act: ({ method, action }) => method === 'POST' && action !== undefined,
  };
  return async (method: Method): Promise<Pair[]> => {
    const means = routesOf[method.name.split('/').at(-1)!];
    if (!means) return [];
    const found: Pair[] = [];
    for (const { name: kind, plural, actions } of kinds) {
      const isOfKind = ({ action }: { action?: string }) =>
        action === undefined || Object.hasOwn(actions ?? {}, action);
      const routes = triedRoutes(lab.routes).filter(
        (route) =>
          route.template.startsWith(`/v1/${plural}`) && route.plural === plural && means(route) && isOfKind(route),
      );
      for (const route of routes) {
        for (const { hidden, absent, words } of await inBody({ lab, token: '', own }, key)(route)) {
          const message = ({ json }: { json?: unknown }) => ({
            tenantId: ATTACKER,
            kind,
            id: own.things[plural]!.id,
            action: route.action,
            body: json,
            patch: json,
          });
          found.push({ foreign: message(hidden), absent: message(absent), words: words.flat() });
        }
      }
    }
    return found;
  };
}

function pairOf(fields: Record<string, unknown>, field: string, foreign: string, absent: string): Pair {
  return { foreign: { ...fields, [field]: foreign }, absent: { ...fields, [field]: absent }, words: [foreign, absent] };
}

/** Throws where the two can be told apart. */
async function compared(grpc: GrpcLab, caller: string, method: Method, pairs: readonly Pair[]): Promise<Answer[]> {
  const answers: Answer[] = [];
  for (const { foreign, absent, words } of pairs) {
    const there = await grpc.call(caller, method, foreign);
    const nowhere = await grpc.call(caller, method, absent);
    const faces = [there, nowhere].map(({ face, statements }) =>
      words.reduce((text, word) => text.replaceAll(word, '<asked>'), JSON.stringify({ face, statements })),
    );
    if (faces[0] !== faces[1]) throw new Error(`${JSON.stringify(foreign)}: ${faces.join('\nis not ')}`);
    answers.push(there);
  }
  return answers;
}
