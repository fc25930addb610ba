import { expect, test } from 'vitest';
import { formatDuration, parseDuration } from './duration.js';

test.each([
  ['45s', 45_000],
  ['90m', 5_400_000],
  ['12h', 43_200_000],
  ['30d', 2_592_000_000],
])('%s is %i ms, and is written so again', (text, ms) => {
  expect(parseDuration(text)).toBe(ms);
  expect(formatDuration(ms)).toBe(text);
});

test.each(['', '1', 's', '0s', '-1s', '1.5h', '1 h', '1w', '1h30m', '9999999999s'])('%j is none', (text) => {
  expect(parseDuration(text)).toBeUndefined();
});

test('what has no larger unit is told in seconds', () => {
  expect(formatDuration(61_000)).toBe('61s');
});
