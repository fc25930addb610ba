/** Page tokens: any change is refused, as is one of another query. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decodePageToken, encodePageToken } from './page-token.js';

const KEY = Buffer.alloc(32, 1);
const refused = expect.objectContaining({
  code: 'invalid',
  details: expect.objectContaining({ errors: [expect.objectContaining({ parameter: 'pageToken' })] }),
});

describe('page tokens', () => {
  test('give the position back, to the same query only', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 100 }), fc.string(), fc.string(), (sortKey, query, other) => {
        const token = encodePageToken(KEY, query, [sortKey, 'id']);
        expect(token).toMatch(/^[A-Za-z0-9_-]+$/);
        expect(decodePageToken(KEY, query, token)).toEqual([sortKey, 'id']);
        if (other !== query) expect(() => decodePageToken(KEY, other, token)).toThrow(refused);
        expect(() => decodePageToken(Buffer.alloc(32, 2), query, token)).toThrow(refused);
      }),
    );
  });

  test('are refused with any character changed, taken away or added', () => {
    const token = encodePageToken(KEY, 'q', ['2026-01-01T00:00:00.000Z', 'id']);
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
    for (let at = 0; at < token.length; at++) {
      for (const c of alphabet) {
        if (c === token[at]) continue;
        const changed = token.slice(0, at) + c + token.slice(at + 1);
        expect(() => decodePageToken(KEY, 'q', changed)).toThrow(refused);
      }
      expect(() => decodePageToken(KEY, 'q', token.slice(0, at) + token.slice(at + 1))).toThrow(refused);
    }
    for (const wrong of [`${token}A`, `${token}=`, ` ${token}`, '', 'AAAA', `${token}\n`, 'A'.repeat(5000)]) {
      expect(() => decodePageToken(KEY, 'q', wrong)).toThrow(refused);
    }
  });

  test('no text makes the decoder fail otherwise', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 200 }), (text) => {
        expect(() => decodePageToken(KEY, 'q', text)).toThrow(refused);
      }),
    );
  });
});
