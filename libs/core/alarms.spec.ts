/** Operators are told of every alarm what to do about it. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { alarmCodes } from './alarms.js';

test('every code stands in the table of docs/operations.md, and no other', () => {
  const page = readFileSync(join(import.meta.dirname, '..', '..', 'docs', 'operations.md'), 'utf8');
  const [section] = /^## Alarms\n.*?(?=^## )/ms.exec(page)!;
  const told = [...section.matchAll(/^\| (`[^|]*`) \|/gm)].flatMap(([, codes]) => codes!.match(/\w+/g)!);
  expect(told.toSorted()).toEqual(Object.keys(alarmCodes).toSorted());
});
