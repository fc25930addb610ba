import { appendFile, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { limitConsoleLog, readConsoleLog } from './console.js';
import { openPlaces, type Place } from './places.js';

describe('a console log', () => {
  let dir: string;
  let place: Place;
  const tail = async (bytes: number) => {
    let text = '';
    for await (const chunk of readConsoleLog(place, bytes)) {
      expect(chunk.length).toBeLessThanOrEqual(64 * 1024);
      text += Buffer.from(chunk).toString();
    }
    return text;
  };

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'rz-console-'));
    const ref = { tenantId: 'acme', kind: 'instance', id: '00000000-0000-0000-0000-000000000001' };
    const places = openPlaces(dir);
    await places.claim(ref);
    place = places.of(ref.id);
  });
  afterAll(() => rm(dir, { recursive: true, force: true }));

  it('is empty before there is one', async () => {
    expect(await tail(100)).toBe('');
    await limitConsoleLog(place);
  });

  it('gives its end, and goes on after it was cut', async () => {
    const line = `${'x'.repeat(999)}\n`;
    await writeFile(place.consoleLog, line.repeat(1100));
    await appendFile(place.consoleLog, 'first\n');
    await limitConsoleLog(place);
    expect((await stat(place.consoleLog)).size).toBe(0);
    await appendFile(place.consoleLog, 'second\n');
    expect(await tail(13)).toBe('first\nsecond\n');
    expect(await tail(7)).toBe('second\n');
    expect((await tail(200_000)).length).toBe(200_000);
    await limitConsoleLog(place);
    expect(await tail(13)).toBe('first\nsecond\n');
  });
});
