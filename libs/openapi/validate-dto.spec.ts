/** What validateDto refuses with which pointer and code; never a throw, never laxer than class-validator. */
import { plainToInstance } from 'class-transformer';
import { ArrayMaxSize, IsArray, validateSync } from 'class-validator';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type FieldError, nameRule } from '#libs/core';
import { Check, Describe, validateDto } from './index.js';
import { CreateInstance, Interface } from './sample.dto.js';

class Words {
  @Describe('Words.')
  @IsArray()
  @ArrayMaxSize(20_000)
  @Check<unknown[]>('areWords', (list) =>
    list.map((_, n) => ({ pointer: `/${n}`, code: 'wrong_type', message: 'must be a word' })),
  )
  words!: string[];
}

const good = { name: 'web', vcpus: 2, interfaces: [{ network: 'lan', ip: '10.0.0.5' }] };

const check = (change: object, options = {}) => {
  const body = JSON.parse(JSON.stringify({ ...good, ...change }, (_k, v) => (v === undefined ? null : v)));
  const result = validateDto(CreateInstance, body, options);
  return Array.isArray(result) ? result.map((error) => `${error.pointer} ${error.code}`) : result.value;
};

describe('validateDto', () => {
  it('gives an instance with defaults and nested instances', () => {
    const value = check({ tags: { env: 'prod' }, note: null }) as CreateInstance;
    expect(value).toBeInstanceOf(CreateInstance);
    expect(value.interfaces[0]).toBeInstanceOf(Interface);
    expect(value).toMatchObject({ memoryMiB: 512, note: null, tags: { env: 'prod' } });
  });

  it('looks at no item of a list that is too long, and takes no longer for many faults', () => {
    const refused = (count: number) => {
      const began = performance.now();
      const errors = validateDto(Words, { words: Array.from({ length: count }, (_, n) => n) }) as FieldError[];
      expect(performance.now() - began).toBeLessThan(1_000);
      return errors;
    };
    expect(refused(500_000)).toMatchObject([{ pointer: '/words', code: 'too_many' }]);
    expect(refused(20_000)).toHaveLength(100);
  });

  it.each<[object, string[]]>([
    [{ vcpus: '2' }, ['/vcpus wrong_type']],
    [{ vcpus: 1.5 }, ['/vcpus wrong_type']],
    [{ vcpus: 0 }, ['/vcpus out_of_range']],
    [{ vcpus: 257 }, ['/vcpus out_of_range']],
    [{ memoryMiB: 1e30 }, ['/memoryMiB out_of_range']],
    [{ vcpus: null }, ['/vcpus null_not_allowed']],
    [{ memoryMiB: null }, ['/memoryMiB null_not_allowed']],
    [{ name: '' }, ['/name empty']],
    [{ name: 'x'.repeat(64) }, ['/name too_long']],
    [{ name: 'Web' }, ['/name invalid_format']],
    [{ name: ['web'] }, ['/name wrong_type']],
    [{ note: 'x'.repeat(11) }, ['/note too_long']],
    [{ note: 'a\0' }, ['/note invalid_value']],
    [{ note: '\ud800' }, ['/note invalid_value']],
    [{ protect: 'yes' }, ['/protect wrong_type']],
    [{ restartPolicy: 'never' }, ['/restartPolicy invalid_value']],
    [{ restartPolicy: {} }, ['/restartPolicy wrong_type']],
    [{ interfaces: [] }, ['/interfaces too_few']],
    [{ interfaces: [1, 2, 3, 4] }, ['/interfaces too_many']],
    [{ interfaces: { network: 'lan' } }, ['/interfaces wrong_type']],
    [{ interfaces: [null] }, ['/interfaces/0 null_not_allowed']],
    [{ interfaces: ['lan'] }, ['/interfaces/0 wrong_type']],
    [{ interfaces: [{}] }, ['/interfaces/0/network required']],
    [
      { interfaces: [{ network: 'lan' }, { network: '', ip: '10.0.0.256' }] },
      ['/interfaces/1/network empty', '/interfaces/1/ip invalid_format'],
    ],
    [{ interfaces: [{ network: 'lan', mac: 'x' }] }, ['/interfaces/0/mac read_only']],
    [{ dns: ['10.0.0.1', 'dns', 7] }, ['/dns/1 invalid_format', '/dns/2 invalid_format']],
    [{ dns: 'dns' }, ['/dns wrong_type']],
    [{ primary: [{ network: 'lan' }] }, ['/primary wrong_type']],
    [{ tags: { a: 1 } }, ['/tags/a wrong_type']],
    [{ tags: [] }, ['/tags wrong_type']],
    [{ 'a/b~c': 1 }, ['/a~1b~0c unknown_field']],
    [{ toString: 1, hasOwnProperty: 2 }, ['/toString unknown_field', '/hasOwnProperty unknown_field']],
  ])('refuses %j', (change, expected) => {
    expect(check(change)).toEqual(expected);
  });

  it('refuses missing fields, all at once', () => {
    const errors = validateDto(CreateInstance, {}) as FieldError[];
    expect(errors.map((error) => `${error.pointer} ${error.code}`)).toEqual([
      '/name required',
      '/vcpus required',
      '/interfaces required',
    ]);
  });

  it('refuses read-only and immutable fields by their own codes', () => {
    expect(check({ id: 'x', vcpus: 3 }, { readOnly: ['id'], immutable: ['vcpus'] })).toEqual([
      '/vcpus immutable',
      '/id read_only',
    ]);
  });

  it('says limits in plain words', () => {
    const messages = (validateDto(CreateInstance, { ...good, vcpus: 999, name: '9' }) as FieldError[]).map(
      (e) => e.message,
    );
    expect(messages).toEqual([nameRule, 'must be at most 256']);
  });

  it('refuses keys that would pollute prototypes, at every level', () => {
    const pointersOf = (text: string) => {
      const errors = validateDto(CreateInstance, JSON.parse(text)) as FieldError[];
      return errors.filter((error) => error.code === 'unknown_field').map((error) => error.pointer);
    };
    expect(pointersOf('{"__proto__":{"name":"x"},"constructor":{"prototype":{"polluted":1}}}')).toEqual([
      '/__proto__',
      '/constructor',
    ]);
    expect(pointersOf('{"tags":{"a":{"__proto__":"x"}},"interfaces":[{"__proto__":1}]}')).toContain(
      '/interfaces/0/__proto__',
    );
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  });

  it('refuses what is no object, and endless nesting and error lists', () => {
    for (const body of [null, 1, 'x', [], true]) expect(Array.isArray(validateDto(CreateInstance, body))).toBe(true);
    const deep = JSON.parse(`${'{"a":'.repeat(5000)}1${'}'.repeat(5000)}`);
    const errors = validateDto(CreateInstance, { ...good, tags: deep }) as FieldError[];
    expect(errors.length).toBeLessThan(10);
    const wide = Object.fromEntries(Array.from({ length: 10_000 }, (_, i) => [`k${i}`, 1]));
    expect(validateDto(CreateInstance, wide)).toHaveLength(100);
  });

  const anyBody = fc.oneof(
    fc.jsonValue({ maxDepth: 4 }),
    fc.record(
      {
        name: fc.oneof(fc.constant('web'), fc.jsonValue()),
        vcpus: fc.oneof(fc.integer({ min: -1, max: 300 }), fc.jsonValue()),
        interfaces: fc.oneof(fc.array(fc.record({ network: fc.string(), ip: fc.jsonValue() })), fc.jsonValue()),
        dns: fc.jsonValue(),
        tags: fc.jsonValue(),
        primary: fc.jsonValue(),
        note: fc.jsonValue(),
      },
      { requiredKeys: [] },
    ),
  );

  it('never throws, whatever JSON it gets', () => {
    fc.assert(
      fc.property(anyBody, (body) => {
        const result = validateDto(CreateInstance, body);
        if (Array.isArray(result)) for (const error of result) expect(error.pointer).toMatch(/^(\/.*)?$/su);
      }),
      { numRuns: 2000 },
    );
  });

  it('accepts nothing that class-validator’s own executor refuses', () => {
    fc.assert(
      fc.property(anyBody, (body) => {
        if (Array.isArray(validateDto(CreateInstance, body))) return;
        const instance = plainToInstance(CreateInstance, body);
        expect(validateSync(instance, { whitelist: true, forbidNonWhitelisted: true })).toEqual([]);
      }),
      { numRuns: 2000 },
    );
  });
});
