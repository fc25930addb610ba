/** What every refusal must be: an RFC 9457 problem that a client can act on, tied to its request. */
import { expect } from 'vitest';
import type { Answer } from './client.js';

/** Checks status, code and shape; returns the problem. `where` is the pointer, parameter or header of one of its errors. */
export function expectProblem(answer: Answer, status: number, code: string, where?: string): any {
  const { body, headers } = answer;
  expect({ status: answer.status, code: body?.code, detail: body?.detail ?? answer.text }).toMatchObject({
    status,
    code,
  });
  expect(headers.get('content-type')).toMatch(/^application\/problem\+json/);
  expect(body).toMatchObject({
    type: expect.stringMatching(/^(urn|https?):/),
    title: expect.any(String),
    status,
    detail: expect.any(String),
    instance: expect.any(String),
    requestId: headers.get('x-request-id') ?? expect.any(String),
    retryable: expect.any(Boolean),
  });
  if (status === 401) expect(headers.get('www-authenticate')).toMatch(/^Bearer/);
  if (status === 503 || status === 429) expect(Number(headers.get('retry-after'))).toBeGreaterThan(0);
  for (const error of body.errors ?? []) {
    expect(error).toMatchObject({ code: expect.stringMatching(/^[a-z_]+$/), message: expect.any(String) });
    expect(['pointer', 'parameter', 'header'].filter((key) => key in error)).toHaveLength(1);
  }
  if (where !== undefined) {
    const places = (body.errors ?? []).map((error: any) => error.pointer ?? error.parameter ?? error.header);
    expect(places).toContain(where);
  }
  return body;
}
