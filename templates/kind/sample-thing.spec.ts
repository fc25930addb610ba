/** What is kind sample-thing's own; what holds for every kind is in the contract suite. */
import 'reflect-metadata';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Caller } from '#libs/resources';
import { type Platform, startPlatform } from '#libs/testing';
import { sampleThing } from './index.js';

let platform: Platform;
let caller: Caller;
beforeAll(async () => {
  platform = await startPlatform({ kinds: [sampleThing] });
  caller = await platform.tenant();
});
afterAll(() => platform?.close());

test('says what it was told last', async () => {
  const { pipeline, reader } = platform;
  await platform.done(caller, await pipeline.create(caller, sampleThing, { name: 'one', note: 'hello' }));
  expect((await reader.get(caller, sampleThing, 'one')).body).toMatchObject({ note: 'hello', state: 'ready' });
  await platform.done(caller, await pipeline.update(caller, sampleThing, 'one', { note: 'goodbye' }));
  expect((await reader.get(caller, sampleThing, 'one')).body).toMatchObject({ note: 'goodbye', generation: 2 });
});
