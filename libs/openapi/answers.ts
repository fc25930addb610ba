/** What the descriptions of operations share: their answers and parameters. */
import type { JsonSchema } from './json-schema.js';

export const parameter = (name: string) => ({ $ref: `#/components/parameters/${name}` });

/** What every change takes beside its body. */
export const changeParameters = ['Wait', 'DryRun', 'IdempotencyKey', 'RequestId'].map(parameter);

/** Problems that every change may be answered with. */
export const changing = [400, 401, 403, 404, 406, 409, 413, 415, 422, 429, 503];

/** A `responses` object: the successes given, and the problems of these statuses. For extra paths, too. */
export function responsesWith(successes: Record<string, object>, statuses: readonly number[]): Record<string, object> {
  const problems = statuses.map((status) => [String(status), { $ref: `#/components/responses/Problem${status}` }]);
  return { ...successes, ...Object.fromEntries(problems) };
}

/** A JSON answer with the headers of `components`. */
export function jsonAnswer(description: string, schema: JsonSchema, headers: Record<string, string> = {}): object {
  const always = { 'X-Request-Id': 'RequestId', RateLimit: 'RateLimit', 'RateLimit-Policy': 'RateLimitPolicy' };
  return {
    description,
    headers: Object.fromEntries(
      Object.entries({ ...always, ...headers }).map(([name, component]) => [
        name,
        { $ref: `#/components/headers/${component}` },
      ]),
    ),
    content: { 'application/json': { schema } },
  };
}

/** 202 with the job, or 200 when `wait` saw its end or nothing had to be done (dryRun). */
export function changeResponses(change: JsonSchema, statuses: readonly number[]): Record<string, object> {
  const headers = { ETag: 'ETag', 'Idempotency-Replayed': 'Replayed' };
  return responsesWith(
    {
      200: jsonAnswer('The job has ended (wait), or as it would be (dryRun).', change, headers),
      202: jsonAnswer('Accepted; the job goes on.', change, { ...headers, Location: 'Location' }),
    },
    statuses,
  );
}

/** Equality on fields, in lists and removals by selector. */
export function filterParameters({ filters = [] }: { filters?: readonly string[] }): object[] {
  return ['state', 'name', ...filters].map((name) => ({
    name,
    in: 'query',
    description: `Only with this ${name}.`,
    schema: { type: 'string' },
  }));
}

/** `public-address` as PublicAddress. */
export function pascal(word: string): string {
  return word.replaceAll(/(?:^|-)([a-z0-9])/g, (_match, letter: string) => letter.toUpperCase());
}
