/**
 * `npm run bench`: Rhyzome's REST API against a bare Fastify and pg server, same rows, same machine, in turn within one
 * run; medians of the rounds. Then callers with 10 and 200 grants against one with a role. Then a tenant of 100,000 resources, among 1,000,000, against one of 500; then an image of
 * 4 GiB. Prints ratios, CPU time and statements a request, memory; `--json` for machines, `--quick` for small sizes and few
 * rounds, `--only stack|grants|scale|images` for one of them.
 */
import 'reflect-metadata';
import { parseArgs } from 'node:util';
import autocannon from 'autocannon';
import { benchGrants, printGrants } from './grants.js';
import { benchImages, printImages } from './images.js';
import { benchScale, printScale } from './scale.js';
import { type BenchServer, type BenchStack, cpuMs, residentMiB, startStack } from './stack.js';

const CONNECTIONS = 16;

interface Case {
  name: string;
  aim: number;
  request(server: 'rhyzome' | 'bare', stack: BenchStack, count: number): autocannon.Request;
}

const headers = (stack: BenchStack, server: string): Record<string, string> =>
  server === 'rhyzome' ? { authorization: `Bearer ${stack.token}` } : {};

const cases: Case[] = [
  {
    name: 'GET one',
    aim: 0.5,
    request: (server, stack, count) => ({
      method: 'GET',
      path: `${new URL(stack[server].url).pathname.replace(/\/$/, '')}/networks/${stack.ids[count % stack.ids.length]}`,
      headers: headers(stack, server),
    }),
  },
  {
    name: 'list of 100',
    aim: 0.6,
    request: (server, stack) => ({
      method: 'GET',
      path: server === 'rhyzome' ? '/v1/networks?pageSize=100' : '/networks',
      headers: headers(stack, server),
    }),
  },
  {
    name: 'create network',
    aim: 0.3,
    request: (server, stack, count) => ({
      method: 'POST',
      path: server === 'rhyzome' ? '/v1/networks' : '/networks',
      headers: { ...headers(stack, server), 'content-type': 'application/json' },
      body: JSON.stringify({ name: `n-${process.pid}-${count}`, subnet: '10.20.0.0/24' }),
    }),
  },
];

interface Round {
  perSecond: number;
  p50Ms: number;
  p99Ms: number;
  cpuMsPerRequest: number;
  statementsPerRequest: number;
  failures: number;
}

let count = 0;

async function round(stack: BenchStack, name: 'rhyzome' | 'bare', which: Case, seconds: number): Promise<Round> {
  const server: BenchServer = stack[name];
  const [cpuBefore, statementsBefore] = [cpuMs(server.pid), await stack.statements()];
  const result = await autocannon({
    url: new URL(server.url).origin,
    connections: CONNECTIONS,
    duration: seconds,
    requests: [{ setupRequest: (request) => ({ ...request, ...which.request(name, stack, count++) }) }],
  });
  const total = Math.max(1, result['2xx']);
  return {
    perSecond: result['2xx'] / result.duration,
    p50Ms: result.latency.p50,
    p99Ms: result.latency.p99,
    cpuMsPerRequest: (cpuMs(server.pid) - cpuBefore) / total,
    statementsPerRequest: name === 'bare' ? 1 : ((await stack.statements()) - statementsBefore) / total,
    failures: result.non2xx + result.errors + result.timeouts,
  };
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;
}

function summary(rounds: Round[]) {
  const of = (key: keyof Round) => median(rounds.map((one) => one[key]));
  return {
    perSecond: Math.round(of('perSecond')),
    p50Ms: of('p50Ms'),
    p99Ms: of('p99Ms'),
    cpuMsPerRequest: Number(of('cpuMsPerRequest').toFixed(3)),
    statementsPerRequest: Number(of('statementsPerRequest').toFixed(2)),
    failures: rounds.reduce((sum, one) => sum + one.failures, 0),
  };
}

async function benchStack() {
  const stack = await startStack();
  try {
    const idle = residentMiB(stack.rhyzome.pid);
    const results = [];
    for (const which of cases) {
      for (const name of ['rhyzome', 'bare'] as const) await round(stack, name, which, 2);
      const rounds = { rhyzome: [] as Round[], bare: [] as Round[] };
      for (let n = 0; n < ROUNDS; n++) {
        for (const name of ['rhyzome', 'bare'] as const) rounds[name].push(await round(stack, name, which, SECONDS));
      }
      const ratio = median(rounds.rhyzome.map((one, n) => one.perSecond / rounds.bare[n]!.perSecond));
      results.push({
        case: which.name,
        aim: which.aim,
        ratio: Number(ratio.toFixed(2)),
        rhyzome: summary(rounds.rhyzome),
        bare: summary(rounds.bare),
      });
    }
    return { rounds: ROUNDS, seconds: SECONDS, connections: CONNECTIONS, idleMiB: idle, results };
  } finally {
    await stack.stop();
  }
}

function printStack({ idleMiB, results }: Awaited<ReturnType<typeof benchStack>>): void {
  console.log(
    `rhyzome-api idles at ${idleMiB} MiB; ${ROUNDS} rounds of ${SECONDS} s in turn, ${CONNECTIONS} connections\n`,
  );
  console.table(
    results.map(({ case: name, aim, ratio, rhyzome, bare }) => ({
      case: name,
      ratio,
      aim,
      'rhyzome/s': rhyzome.perSecond,
      'bare/s': bare.perSecond,
      'p50 ms': `${rhyzome.p50Ms} / ${bare.p50Ms}`,
      'CPU ms/request': `${rhyzome.cpuMsPerRequest} / ${bare.cpuMsPerRequest}`,
      'statements/request': `${rhyzome.statementsPerRequest} / ${bare.statementsPerRequest}`,
      failures: rhyzome.failures + bare.failures,
    })),
  );
}

const { values: asked } = parseArgs({
  options: { json: { type: 'boolean' }, quick: { type: 'boolean' }, only: { type: 'string' } },
});
const parts = ['stack', 'grants', 'scale', 'images'];
if (asked.only !== undefined && !parts.includes(asked.only)) throw new Error(`--only takes ${parts.join(', ')}`);
const isAsked = (part: string) => asked.only === undefined || asked.only === part;
const isQuick = asked.quick ?? false;
const ROUNDS = Number(process.env.BENCH_ROUNDS ?? (isQuick ? 1 : 5));
const SECONDS = isQuick ? 1 : 4;

const stack = isAsked('stack') ? await benchStack() : undefined;
if (stack && !asked.json) printStack(stack);
const grants = isAsked('grants') ? await benchGrants(isQuick, asked.json ? undefined : printGrants) : undefined;
const scale = isAsked('scale') ? await benchScale(isQuick, asked.json ? undefined : printScale) : undefined;
const images = isAsked('images') ? await benchImages(isQuick ? 0.25 : 4) : undefined;
if (images && !asked.json) printImages(images);
if (asked.json) process.stdout.write(`${JSON.stringify({ ...stack, grants, scale, images }, null, 2)}\n`);
