/** API tokens as texts: found by their shape, refused when mistyped, never the same twice. */
import { expect, test } from 'vitest';
import { hashOfApiToken, isApiToken, newApiToken } from './api-token-format.js';

const made = Array.from({ length: 2_000 }, () => newApiToken());

test('have a shape that scanners find, and a checksum', () => {
  for (const { token, prefix, hash } of made) {
    expect(token).toMatch(/^rhz_[0-9A-Za-z]{33}$/);
    expect(isApiToken(token)).toBe(true);
    expect(token.slice(0, 8)).toBe(prefix);
    expect(hash).toEqual(hashOfApiToken(token));
    expect(hash).toHaveLength(32);
  }
});

test('are no two the same, and use the whole room of 160 bits', () => {
  expect(new Set(made.map(({ token }) => token)).size).toBe(made.length);
  // Each place but the first, which 2^160 does not fill, takes many values.
  for (let place = 5; place < 31; place++)
    expect(new Set(made.map(({ token }) => token[place])).size, `place ${place}`).toBeGreaterThan(50);
});

test('are refused with any one character changed, left out or added', () => {
  const { token } = made[0]!;
  for (let at = 0; at < token.length; at++) {
    const other = token[at] === 'x' ? 'y' : 'x';
    expect(isApiToken(token.slice(0, at) + other + token.slice(at + 1)), `changed at ${at}`).toBe(false);
    expect(isApiToken(token.slice(0, at) + token.slice(at + 1))).toBe(false);
  }
  for (const other of [`${token} `, `${token}\n`, ` ${token}`, token.toUpperCase(), ''])
    expect(isApiToken(other)).toBe(false);
});
