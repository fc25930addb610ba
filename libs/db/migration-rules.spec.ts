/** Migrations keep to the rules by which servers of the version before go on working, and the rules find what breaks them. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { FIRST_UNDER_RULES, offencesOf, statementsOf } from './migration-rules.js';
import { readMigrations } from './migrator.js';

const folder = join(import.meta.dirname, '../../sql/migrations');

/** Statements of migrations that were there before the rules, by how they begin, and why they may stay. */
const accepted: Record<string, string> = {
  'create index job_alarm on job': 'of jobs that have not ended: one read of the table, as long as a count of it takes',
  'create index job_due_of_tenant on job': 'the same',
  'create index job_held on job': 'the same',
  'create index placement_tombstone on placement': 'empty when it is made; one read of the table',
  'update resource set conditions = jsonb_path_query_array':
    'of the few rows that a mistake had left with a null among them',
  'lock table reservation, node': 'for as long as the reservations are added up: thousands of rows, not millions',
};

const isAccepted = (statement: string) => Object.keys(accepted).some((beginning) => statement.startsWith(beginning));

test('migrations leave to servers of the version before what they use', async () => {
  const files = (await readMigrations(folder)).filter(({ name }) => Number(name.slice(0, 4)) >= FIRST_UNDER_RULES);
  expect(files.length).toBeGreaterThan(5);
  const offences = files.flatMap(({ name, sql }) =>
    offencesOf(sql).flatMap(({ rule, statement }) => (isAccepted(statement) ? [] : [`${name} ${rule}: ${statement}`])),
  );
  expect(offences, 'docs/migrations.md says what to do instead').toEqual([]);
});

test.each([
  ['drop table lease', 'removes'],
  ['alter table lease drop column ip', 'removes'],
  ['alter table lease add column a int, rename column ip to address', 'removes'],
  ['drop function reserve_node(uuid)', 'removes'],
  ['alter table lease add column a int, add column b text not null', 'demands'],
  ['alter table lease alter column hostname set not null', 'demands'],
  ['alter table lease alter ip type text', 'demands'],
  ['alter table lease alter column automatic drop default', 'demands'],
  ['alter table lease add constraint one check (ordinal < 3)', 'demands'],
  ['revoke select on lease from rhyzome_app', 'takes rights'],
  ['create index lease_ip on lease (ip)', 'keeps everybody out'],
  ['update resource set name = lower(name)', 'keeps everybody out'],
  ['delete from event where at < now()', 'keeps everybody out'],
  ['lock table node', 'keeps everybody out'],
  [
    'create function charge(p_tenant text, p_delta bigint default 1) returns void language sql',
    'makes a call ambiguous',
  ],
])('%s is refused', (sql, rule) => {
  expect(offencesOf(`${sql};`)).toEqual([{ rule: expect.stringContaining(rule), statement: sql.toLowerCase() }]);
});

test.each([
  'alter table lease add column a int, add column b text not null default $$x$$',
  'alter table lease add column c int generated always as (1) stored not null',
  'create table fresh (id uuid not null); create index fresh_id on fresh (id); alter table fresh add check (id is not null)',
  'create or replace function charge(p_tenant text) returns void language plpgsql as $$ begin drop table lease; end $$',
  'drop view quota_drift; create view quota_drift as select 1',
  'create function f() returns int language sql as $$ select 1 $$; revoke execute on function f() from public',
  'update node set told_state = null',
  `-- safe: nobody has written this column since version 3, and nobody reads it.
   alter table lease drop column hostname`,
])('%s is taken', (sql) => {
  expect(offencesOf(sql)).toEqual([]);
});

test('a reason is a sentence, and stands before its statement', () => {
  expect(offencesOf('-- safe: yes\ndrop table lease;')).toHaveLength(1);
  expect(offencesOf('drop table lease; -- safe: nobody has used this table for a long time.')).toHaveLength(1);
});

test('statements are told apart whatever stands in them', () => {
  const sql = `-- One.\ninsert into a values ('x;y', $$;$$); /* ; */ create function f() returns int language sql
    begin atomic select 1; select 2; end;\nselect "a;b"`;
  expect(statementsOf(sql).map(({ text }) => text.slice(0, 12))).toEqual([
    'insert into ',
    'create funct',
    'select "a;b"',
  ]);
});

test('each rule is in the document', () => {
  const document = readFileSync(join(import.meta.dirname, '../../docs/migrations.md'), 'utf8');
  for (const word of ['removes', 'demands', 'takes rights away', 'keeps everybody out', 'ambiguous'])
    expect(document).toContain(word);
});
