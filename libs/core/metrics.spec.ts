/** Metrics as text both ways, and what may be reported. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MAX_METRICS, type MetricSample, metricErrors, parseMetricsText, renderMetrics } from './metrics.js';

const sample = (more: Partial<MetricSample> = {}): MetricSample => ({
  name: 'jobs_total',
  type: 'counter',
  labels: {},
  value: 1,
  ...more,
});

const anySample: fc.Arbitrary<MetricSample> = fc.record({
  name: fc.stringMatching(/^[a-z_:][a-zA-Z0-9_:]{0,20}$/),
  type: fc.constantFrom('counter', 'gauge'),
  labels: fc.dictionary(fc.stringMatching(/^[a-z][a-zA-Z0-9_]{0,10}$/), fc.string({ maxLength: 30 }), { maxKeys: 4 }),
  value: fc.double({ noNaN: true, noDefaultInfinity: true }),
});

describe('the text format', () => {
  test('that is rendered is read as it was, whatever stands in labels', () => {
    fc.assert(
      fc.property(fc.uniqueArray(anySample, { selector: ({ name }) => name, maxLength: 20 }), (samples) => {
        const text = renderMetrics(samples);
        // A carriage return at a line's end would be trimmed; nobody who reports may have one.
        fc.pre(!/[\r\v\f\u0085\u2028\u2029\ufeff]/.test(text));
        const read = parseMetricsText(text);
        expect(read).toEqual({ samples: samples.map((one) => ({ ...one, value: one.value + 0 })) });
      }),
      { numRuns: 500 },
    );
  });

  test('puts samples of one name together, under one type', () => {
    const text = renderMetrics([sample(), sample({ name: 'b', type: 'gauge' }), sample({ labels: { q: 'a\n"\\' } })]);
    expect(text).toBe('# TYPE jobs_total counter\njobs_total 1\njobs_total{q="a\\n\\"\\\\"} 1\n# TYPE b gauge\nb 1\n');
    expect(renderMetrics([sample(), sample({ type: 'gauge' })])).toContain('# TYPE jobs_total untyped');
  });

  test('is never misread, whatever it is', () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.string(), fc.stringMatching(/^[a-z]{0,3}(\{[a-z="\\,]{0,9}\})? ?[0-9.e+-]{0,5}$/)),
        (text) => {
          const read = parseMetricsText(text);
          if ('samples' in read) for (const { name } of read.samples) expect(text).toContain(name);
        },
      ),
    );
    for (const line of [
      'a',
      'a{} x',
      'a{b="c" 1',
      'a{b="c",b="d"} 1',
      'a{b=c} 1',
      '{} 1',
      'a 1 x',
      'a 0x10',
      'a 1_0',
    ]) {
      expect(parseMetricsText(`ok 1\n${line}`)).toEqual({ error: expect.stringMatching(/^line 2 /) });
    }
    expect(parseMetricsText('a{} +1e3\na{b="c",} -.5 1700\n\n# HELP a x\n')).toMatchObject({
      samples: [
        { labels: {}, value: 1000 },
        { labels: { b: 'c' }, value: -0.5 },
      ],
    });
  });
});

describe('what is reported', () => {
  test('may be what Prometheus takes', () => {
    expect(metricErrors([sample(), sample({ labels: { a: 'é" \\' } }), sample({ name: ':x', type: 'gauge' })])).toEqual(
      [],
    );
  });

  test.each<[Partial<MetricSample>, string]>([
    [{ name: '' }, '/metrics/0/name'],
    [{ name: '1a' }, '/metrics/0/name'],
    [{ name: 'é' }, '/metrics/0/name'],
    [{ name: 'a\0' }, '/metrics/0/name'],
    [{ name: 'x'.repeat(129) }, '/metrics/0/name'],
    [{ name: 'rhyzome_instance_x' }, '/metrics/0/name'],
    [{ type: 'histogram' as 'gauge' }, '/metrics/0/type'],
    [{ value: Number.NaN }, '/metrics/0/value'],
    [{ value: Number.POSITIVE_INFINITY }, '/metrics/0/value'],
    [{ labels: { '1': 'x' } }, '/metrics/0/labels/1'],
    [{ labels: { __name__: 'x' } }, '/metrics/0/labels/__name__'],
    [{ labels: { instance: 'x' } }, '/metrics/0/labels/instance'],
    [{ labels: { 'a/b': 'x' } }, '/metrics/0/labels/a~1b'],
    [{ labels: { a: 'x\0' } }, '/metrics/0/labels/a'],
    [{ labels: { a: '\ud800' } }, '/metrics/0/labels/a'],
    [{ labels: { a: 'x'.repeat(256) } }, '/metrics/0/labels/a'],
    [{ labels: Object.fromEntries(Array.from({ length: 11 }, (_, n) => [`l${n}`, ''])) }, '/metrics/0/labels'],
  ])('is refused where it is wrong: %j', (more, pointer) => {
    expect(metricErrors([sample(more)])[0]?.pointer).toBe(pointer);
  });

  test('says nothing twice, and no more than fits', () => {
    expect(
      metricErrors([sample({ labels: { a: '1', b: '2' } }), sample({ labels: { b: '2', a: '1' } })]),
    ).toMatchObject([{ pointer: '/metrics/1', code: 'duplicate' }]);
    expect(metricErrors([sample(), sample({ type: 'gauge', labels: { a: '1' } })])).toMatchObject([
      { pointer: '/metrics/1/type' },
    ]);
    const many = Array.from({ length: MAX_METRICS + 1 }, (_, n) => sample({ name: `m${n}` }));
    expect(metricErrors(many)).toMatchObject([{ pointer: '/metrics', code: 'too_many' }]);
    expect(metricErrors(many.slice(1))).toEqual([]);
  });
});
