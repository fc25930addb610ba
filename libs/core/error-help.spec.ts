/** The catalogue says of every code what to do, and of no other. */
import { expect, test } from 'vitest';
import { errorHelp } from './error-help.js';
import { errorCodes } from './errors.js';

test('every code has its help, and none is left over', () => {
  expect(Object.keys(errorHelp).sort()).toEqual(Object.keys(errorCodes).sort());
  for (const help of Object.values(errorHelp)) expect(help).toMatch(/^[A-Z].{20,}[.]$/);
});
