/**
 * Who is let through to what: every route of the server × everybody who must not be let in, and another tenant on everything that
 * is not his. The routes are the server's own, so that a new one is in here by itself. What comes of it stands in
 * access-matrix/matrix.json (made anew by `vitest run test/access-matrix.spec.ts -u`); what may not come of it fails whatever
 * stands there.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Case, casesOf } from './access-matrix/cases.js';
import { grpcCases } from './access-matrix/grpc-cases.js';
import { GrpcLab } from './access-matrix/grpc-lab.js';
import { Lab, type Told } from './access-matrix/lab.js';
import { Matrix } from './access-matrix/matrix.js';
import { type TriedRoute, triedRoutes } from './access-matrix/routes.js';

let lab: Lab;
let grpc: GrpcLab;
let routes: TriedRoute[];
let cases: Case[];
const matrix = new Matrix();

beforeAll(async () => {
  lab = await Lab.open();
  grpc = await GrpcLab.open(lab);
  routes = triedRoutes(lab.routes);
  cases = await casesOf(lab);
}, 120_000);
afterAll(async () => {
  await grpc?.close();
  await lab?.close();
});

const answerOf = ({ status, body, headers }: Told) =>
  [status, body?.code ?? (status === 200 && headers['content-type']?.includes('json') ? 'empty' : '')].join(' ').trim();

/** Gives what was wrong. */
async function tryOut(route: TriedRoute, one: Case): Promise<string[]> {
  const place = `${route.name}: ${one.name}`;
  try {
    const answers = await one.ask(route);
    if (!route.isShadow) matrix.note(route.name, one.name, answers.map(answerOf));
    const wrong = answers.filter((told) => !one.holds(told, route));
    return wrong.map(({ status, text }) => `${place}: ${status} ${text.slice(0, 300)}`);
  } catch (error) {
    return [`${place}: ${(error as Error).message}`];
  }
}

test('who has no good token for here gets nowhere, and costs the database nothing', async () => {
  const free = cases.filter(({ isFree }) => isFree);
  // What is remembered of a token is remembered from its first time on, or from the last change of its tenant's permissions.
  await new Promise((done) => setTimeout(done, 500));
  for (const one of free) await tryOut(routes.find((route) => one.means(route))!, one);
  lab.statements.length = 0;
  const broken: string[] = [];
  for (const route of routes) {
    const tried = free.filter((one) => one.means(route)).map((one) => tryOut(route, one));
    broken.push(...(await Promise.all(tried)).flat());
  }
  expect(broken).toEqual([]);
  // Thousands of requests: an API token that nobody knows is looked for again after some seconds, and a disabled user when
  // there is news of permissions.
  expect(lab.statements.length).toBeLessThan(20);
}, 300_000);

test('nobody gets through who may not, and what is foreign looks like what is not there', async () => {
  const broken: string[] = [];
  for (const route of routes.filter(({ isShadow }) => !isShadow)) {
    const meant = cases.filter(({ isFree, means }) => !isFree && means(route));
    const beside = meant.filter(({ isAlone }) => !isAlone).map((one) => tryOut(route, one));
    broken.push(...(await Promise.all(beside)).flat());
    for (const one of meant.filter(({ isAlone }) => isAlone)) broken.push(...(await tryOut(route, one)));
  }
  expect(broken).toEqual([]);
}, 300_000);

test('nor through gRPC, whatever the certificate', async () => {
  const broken: string[] = [];
  const each = await grpcCases(lab, grpc);
  for (const method of [...grpc.methods, ...grpc.standard]) {
    for (const one of each.filter(({ means }) => means(method))) {
      const place = `${method.name}: ${one.name}`;
      try {
        const answers = (await one.try(method)).map(({ text }) => text);
        matrix.note(method.name, one.name, answers);
        broken.push(...answers.filter((text) => !one.answers.test(text)).map((text) => `${place}: ${text}`));
      } catch (error) {
        broken.push(`${place}: ${(error as Error).message}`);
      }
    }
  }
  expect(broken).toEqual([]);
}, 300_000);

test('the committed matrix is what the server does', async () => {
  await expect(matrix.text()).toMatchFileSnapshot('access-matrix/matrix.json');
});
