/** That a page which is not true is found: what counts as the same, and what does not. */
import { describe, expect, it } from 'vitest';
import { readPage } from './page.js';
import { difference, Ids, readShown, sameText } from './shown.js';

const id = (last: string) => `01a20121-9842-72ad-b080-250be8f78cf${last}`;
const differs = (shown: string, real: unknown) => difference(readShown(shown), real, new Ids());

describe('an answer is as shown', () => {
  it.each<[string, unknown]>([
    ['{"a":1,"b":[true,null]}', { a: 1, b: [true, null] }],
    ['{"a":1,…}', { a: 1, b: 2 }],
    ['{…,"b":2,…}', { a: 1, b: 2, c: 3 }],
    ['{…,"b":2}', { a: 1, b: 2 }],
    ['{"a":…}', { a: { b: 1 } }],
    ['[{…},…,{"a":3}]', [{ a: 1 }, { a: 2 }, { a: 3 }]],
    ['{"a":"x…z"}', { a: 'xyz' }],
    ['{"at":"2026-11-22T02:18:24.998Z"}', { at: '2027-01-01T00:00:00.000Z' }],
    [`{"id":"${id('1')}","again":"${id('1')}"}`, { id: id('2'), again: id('2') }],
    ['{"ip6":"fd00:30::7439:ccff:fe11:9c17"}', { ip6: 'fd00:30::bc66:1fff:fe3b:edbd' }],
  ])('%s', (shown, real) => {
    expect(differs(shown, real)).toBeUndefined();
  });
});

describe('an answer is not as shown', () => {
  it.each<[string, unknown, string]>([
    ['{"a":1}', { a: 2 }, '/a'],
    ['{"a":1}', { a: '1' }, '/a'],
    ['{"a":1}', { a: 1, b: 2 }, '/b'],
    ['{"a":1,"b":2}', { a: 1 }, '/b'],
    ['{"a":1,"b":2}', { b: 2, a: 1 }, '/a'],
    ['{…,"a":1}', { a: 1, b: 2 }, '/b'],
    ['{"a":1,"c":3,…}', { a: 1, b: 2, c: 3 }, '/c'],
    ['[1]', [1, 2], '/1'],
    ['[1,…,4]', [1, 2, 3], '/2'],
    ['{"a":{}}', { a: [] }, '/a'],
    ['{"a":"x.z"}', { a: 'xyz' }, '/a'],
    ['{"id":"01a20121-9842-72ad-b080-250be8f78cf1"}', { id: 'web' }, '/id'],
    [`{"id":"${id('1')}","again":"${id('1')}"}`, { id: id('2'), again: id('3') }, '/again'],
    [`{"id":"${id('1')}","other":"${id('2')}"}`, { id: id('3'), other: id('3') }, '/other'],
  ])('%s', (shown, real, place) => {
    expect(differs(shown, real)).toContain(place);
  });

  it('where the page shows no JSON', () => {
    expect(() => readShown('{"a":1 "b":2}')).toThrow('a comma or the end');
    expect(() => readShown('{"a":1} more')).toThrow('the end');
  });
});

it('texts are the same but for what is left out, and for shapes', () => {
  expect(sameText('a\n…\nd 76:39:cc:11:9c:17', 'a\nb\nc\nd 9e:12:62:54:6e:87', new Ids())).toBe(true);
  expect(sameText('a\n…\nd', 'a\nb\nc', new Ids())).toBe(false);
});

it('ids of a command are those of answers before it', () => {
  const ids = new Ids();
  expect(ids.fill(`api $A/v1/jobs/${id('1')}`)).toBeUndefined();
  expect(ids.bind(id('1'), id('2'))).toBe(true);
  expect(ids.fill(`api $A/v1/jobs/${id('1')}`)).toBe(`api $A/v1/jobs/${id('2')}`);
});

it('a page’s commands are found with what they show, what they need and why they are not run', () => {
  const page = [
    '<!-- given:\nhead -c 10 x\n-->\n# T\n',
    "```console\n$ api -d '{\n  1}' \\\n  $A\nout\n$ api $B\n```\n",
    '<!-- not run: no such thing here -->\n```console\n$ api $C\nmore\n```\n',
  ].join('\n');
  expect(readPage(page)).toMatchObject([
    { is: 'given', command: 'head -c 10 x' },
    { is: 'request', command: "api -d '{\n  1}' \\\n  $A", shown: 'out', notRun: undefined },
    { is: 'request', command: 'api $B', shown: '' },
    { is: 'request', command: 'api $C', shown: 'more', notRun: 'no such thing here' },
  ]);
  expect(() => readPage('```console\n$ api\n')).toThrow('no end');
  expect(() => readPage('<!-- not run: -->\n')).toThrow('reason');
});
