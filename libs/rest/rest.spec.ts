/** Errors as problems, and what is read from a request's headers and query. */
import { describe, expect, test } from 'vitest';
import { type ErrorCode, errorCodes, RhyzomeError } from '#libs/core';
import type { Caller } from '#libs/resources';
import { callerIn } from '#libs/testing';
import { changeOptionsOf, isUnchanged, type Request, refuseOtherPatches, waitMsOf } from './http.js';
import { renderProblem, toRhyzomeError } from './problem.js';

const caller: Caller = callerIn('acme');

function request(
  more: { method?: string; url?: string; body?: unknown; query?: object; headers?: object } = {},
): Request {
  return { method: 'POST', url: '/v1/networks', body: {}, query: {}, headers: {}, ...more } as unknown as Request;
}

describe('problems', () => {
  test.each(Object.keys(errorCodes) as ErrorCode[])(
    '%s has its status, type and title, and nothing of its cause',
    (code) => {
      const error = new RhyzomeError(code, 'For the user.', { cause: new Error('secret') });
      const { status, headers, body } = renderProblem(error, 'r-1', '/v1/x?token=secret');
      expect(body).toMatchObject({
        type: `urn:rhyzome:problem:${code}`,
        status,
        detail: 'For the user.',
        instance: '/v1/x',
        code,
        requestId: 'r-1',
      });
      expect(status).toBe(errorCodes[code].http);
      expect(JSON.stringify([headers, body])).not.toContain('secret');
      expect('retry-after' in headers).toBe(status === 503 || status === 429);
      expect('www-authenticate' in headers).toBe(status === 401);
    },
  );

  test('have the findings, blockers and further members of their error', () => {
    const error = new RhyzomeError('in_use', 'Used.', {
      errors: [{ pointer: '/a', code: 'x', message: 'm' }],
      blockers: [{ kind: 'instance', id: 'i', name: 'n', relation: 'is attached to' }],
      extensions: { left: 3 },
      retryAfterSeconds: 7,
    });
    const { headers, body } = renderProblem(error, 'r', '/');
    expect(body).toMatchObject({ errors: error.details.errors, blockers: error.details.blockers, left: 3 });
    expect(headers['retry-after']).toBe('7');
  });

  test('of anything thrown explain only what the client did', () => {
    for (const thrown of [
      new Error('secret'),
      'secret',
      undefined,
      null,
      { statusCode: 500 },
      new TypeError('secret'),
    ]) {
      const error = toRhyzomeError(thrown);
      expect(error.code).toBe('internal');
      expect(error.message).not.toContain('secret');
    }
    expect(toRhyzomeError({ code: 'FST_ERR_CTP_BODY_TOO_LARGE' }).code).toBe('body_too_large');
    expect(toRhyzomeError({ getStatus: () => 404 }).code).toBe('not_found');
    const known = new RhyzomeError('busy', 'x');
    expect(toRhyzomeError(known)).toBe(known);
  });
});

describe('a change’s options', () => {
  test('are taken from headers and query', () => {
    const options = changeOptionsOf(
      request({ query: { dryRun: 'true' }, headers: { 'if-match': '"1"', 'idempotency-key': 'k' } }),
      caller,
    );
    expect(options).toMatchObject({
      dryRun: true,
      ifMatch: '"1"',
      idempotency: { subject: caller.actor.subject, key: 'k' },
    });
    expect(changeOptionsOf(request(), caller)).toEqual({ dryRun: false, ifMatch: undefined });
  });

  test('know a key’s request by method, path, body and condition', () => {
    const headers = { 'idempotency-key': 'k' };
    const hashOf = (more: Parameters<typeof request>[0]) =>
      changeOptionsOf(request({ headers, ...more }), caller).idempotency!.hash.toString('hex');
    const first = hashOf({});
    expect(hashOf({ url: '/v1/networks?wait=3s', query: { wait: '3s' } })).toBe(first);
    const others = [
      { method: 'DELETE' },
      { url: '/v1/instances' },
      { body: { a: 1 } },
      { headers: { ...headers, 'if-match': '"1"' } },
    ];
    expect(new Set([first, ...others.map(hashOf)]).size).toBe(others.length + 1);
  });

  test.each([
    ['0s', undefined],
    ['1s', 1000],
    ['60s', 60_000],
  ])('wait=%s', (wait, ms) => {
    expect(waitMsOf({ wait }) || undefined).toBe(ms);
  });
  test.each(['61s', '-1s', '1', '1m', '', '1.5s', ' 1s'])('wait=%j is refused', (wait) => {
    expect(() => waitMsOf({ wait })).toThrow(expect.objectContaining({ code: 'invalid' }));
  });

  test('If-None-Match is compared weakly', () => {
    const unchanged = (value: string) => isUnchanged(request({ headers: { 'if-none-match': value } }), '"7"');
    for (const value of ['"7"', 'W/"7"', '"6", "7"', '*']) expect(unchanged(value), value).toBe(true);
    for (const value of ['"6"', '7', '""', '']) expect(unchanged(value), value).toBe(false);
    expect(isUnchanged(request(), '"7"')).toBe(false);
  });

  test('a patch is a merge patch', () => {
    for (const type of ['application/merge-patch+json', 'application/json; charset=utf-8', 'Application/JSON']) {
      expect(() => refuseOtherPatches(request({ headers: { 'content-type': type } })), type).not.toThrow();
    }
    for (const type of ['application/json-patch+json', 'text/plain', undefined]) {
      expect(() => refuseOtherPatches(request({ headers: { 'content-type': type } }))).toThrow(
        expect.objectContaining({ code: 'unsupported_media_type' }),
      );
    }
  });
});
