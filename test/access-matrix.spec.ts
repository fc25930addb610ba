/**
 * Who is let through to what: every route of the server × everybody who must not be let in, and another tenant on everything that
 * is not his. The routes are the server's own, so that a new one is in here by itself. What comes of it stands in
 * access-matrix/matrix.json, by `vitest run -u test/access-matrix.spec.ts`; what may not come of it fails whatever stands there.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Case, casesOf } from './access-matrix/cases.js';
import { Lab, type Told } from './access-matrix/lab.js';
import { type TriedRoute, triedRoutes } from './access-matrix/routes.js';

let lab: Lab;
let routes: TriedRoute[];
let cases: Case[];
/** Route → case → answer. */
const matrix: Record<string, Record<string, string>> = {};

beforeAll(async () => {
  lab = await Lab.open();
  routes = triedRoutes(lab.routes);
  cases = await casesOf(lab);
}, 120_000);
afterAll(() => lab?.close());

const answerOf = ({ status, body, headers }: Told) =>
  [status, body?.code ?? (headers['content-type']?.includes('json') && status < 300 ? 'nothing' : '')].join(' ').trim();

async function tryAll(chosen: readonly Case[]): Promise<string[]> {
  const broken: string[] = [];
  for (const route of routes) {
    for (const one of chosen.filter((each) => each.means(route))) {
      const answers = await one.ask(route).catch((error: Error) => {
        broken.push(`${route.name}: ${one.name}: ${error.message}`);
        return [];
      });
      for (const told of answers) {
        if (!one.holds(told, route))
          broken.push(`${route.name}: ${one.name}: ${told.status} ${told.text.slice(0, 200)}`);
      }
      if (answers.length > 0) {
        matrix[route.name] ??= {};
        matrix[route.name]![one.name] = [...new Set(answers.map(answerOf))].sort().join(', ');
      }
    }
  }
  return broken;
}

test('nobody gets through, and what is foreign looks like what is not there', async () => {
  expect(await tryAll(cases)).toEqual([]);
}, 120_000);

test('the committed matrix is what the server does', async () => {
  await expect(`${JSON.stringify(matrix, null, 2)}\n`).toMatchFileSnapshot('access-matrix/matrix.json');
});
