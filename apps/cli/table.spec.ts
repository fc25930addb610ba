/** What people read. */
import { expect, it } from 'vitest';
import { fields, table } from './table.js';

it('aligns columns, one line a row, whatever stands in a cell', () => {
  const at = new Date(0);
  expect(
    table(
      ['A', 'LONGER'],
      [
        ['wide cell', at],
        [null, ['x', 'y']],
        ['two\nlines\u001b[31m', { k: 'v' }],
      ],
    ),
  ).toBe(
    [
      'A               LONGER',
      'wide cell       1970-01-01T00:00:00.000Z',
      '-               x y',
      'two lines [31m  k=v',
    ].join('\n'),
  );
  expect(table(['NAME'], [])).toBe('NAME');
  expect(fields({ id: 'acme', 'billing key': undefined })).toBe('id           acme\nbilling key  -');
});
