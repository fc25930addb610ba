// A database's schema `public` as readable SQL, from PostgreSQL's own catalogues (the embedded server has no pg_dump):
// everything that a migration can make there, in an order that depends on names alone. For reading and comparing.
import pg from 'pg';

/** Each section is a query whose rows are statements. Extensions' own objects are left out. */
const notOfAnExtension = (catalogue, alias) =>
  `not exists (select from pg_depend d where d.classid = '${catalogue}'::regclass and d.objid = ${alias}.oid and d.deptype = 'e')`;

const sections = [
  [
    'Extensions',
    `select format('create extension %I;', extname) as sql from pg_extension where extname <> 'plpgsql' order by extname`,
  ],
  [
    'Types',
    `select case t.typtype
        when 'e' then format('create type %I as enum (%s);', t.typname,
          (select string_agg(quote_literal(enumlabel), ', ' order by enumsortorder) from pg_enum where enumtypid = t.oid))
        else format('create domain %I as %s%s%s;', t.typname, format_type(t.typbasetype, t.typtypmod),
          case when t.typnotnull then ' not null' else '' end,
          coalesce((select string_agg(' ' || pg_get_constraintdef(oid), '' order by conname) from pg_constraint where contypid = t.oid), '')) end as sql
      from pg_type t where t.typnamespace = 'public'::regnamespace and t.typtype in ('e', 'd') and ${notOfAnExtension('pg_type', 't')}
      order by t.typname`,
  ],
  [
    'Sequences',
    `select format('create sequence %I;', c.relname) as sql from pg_class c
      where c.relnamespace = 'public'::regnamespace and c.relkind = 'S'
        and not exists (select from pg_depend d where d.objid = c.oid and d.classid = 'pg_class'::regclass and d.deptype in ('i', 'a'))
      order by c.relname`,
  ],
  [
    'Tables',
    `select format(E'create table %I (\\n%s\\n)%s;', c.relname, concat_ws(E',\\n',
        (select string_agg('  ' || concat_ws(' ', quote_ident(a.attname), format_type(a.atttypid, a.atttypmod),
            case when a.attidentity <> '' then 'generated ' || case a.attidentity when 'a' then 'always' else 'by default' end || ' as identity' end,
            case when a.attgenerated = 's' then 'generated always as (' || pg_get_expr(ad.adbin, ad.adrelid) || ') stored'
                 when a.attgenerated = 'v' then 'generated always as (' || pg_get_expr(ad.adbin, ad.adrelid) || ') virtual'
                 when ad.adbin is not null then 'default ' || pg_get_expr(ad.adbin, ad.adrelid) end,
            case when a.attnotnull then 'not null' end), E',\\n' order by a.attnum)
          from pg_attribute a left join pg_attrdef ad on ad.adrelid = a.attrelid and ad.adnum = a.attnum
          where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
        (select string_agg(format('  constraint %I %s', k.conname, pg_get_constraintdef(k.oid)), E',\\n'
            order by position(k.contype::text in 'pucfx'), k.conname)
          from pg_constraint k where k.conrelid = c.oid and k.contype in ('p', 'u', 'c', 'f', 'x'))),
        case when c.relkind = 'p' then ' partition by ' || pg_get_partkeydef(c.oid) else '' end) as sql
      from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and ${notOfAnExtension('pg_class', 'c')}
      order by c.relname`,
  ],
  [
    'Indexes',
    `select pg_get_indexdef(i.indexrelid) || ';' as sql
      from pg_index i join pg_class c on c.oid = i.indexrelid
      where c.relnamespace = 'public'::regnamespace
        and not exists (select from pg_constraint k where k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x'))
      order by c.relname`,
  ],
  [
    'Functions and procedures',
    `select rtrim(pg_get_functiondef(p.oid), E' \\n') || ';' as sql from pg_proc p
      where p.pronamespace = 'public'::regnamespace and p.prokind in ('f', 'p') and ${notOfAnExtension('pg_proc', 'p')}
      order by p.proname, pg_get_function_identity_arguments(p.oid)`,
  ],
  [
    'Views',
    `select format(E'create %s %I as\\n%s', case c.relkind when 'm' then 'materialized view' else 'view' end, c.relname, pg_get_viewdef(c.oid)) as sql
      from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('v', 'm') and ${notOfAnExtension('pg_class', 'c')}
      order by c.relname`,
  ],
  [
    'Triggers',
    `select pg_get_triggerdef(t.oid) || ';' as sql from pg_trigger t join pg_class c on c.oid = t.tgrelid
      where c.relnamespace = 'public'::regnamespace and not t.tgisinternal order by c.relname, t.tgname`,
  ],
  [
    'Row level security',
    `select format('alter table %I enable row level security;', c.relname)
        || case when c.relforcerowsecurity then format(E'\\nalter table %I force row level security;', c.relname) else '' end
        || coalesce(E'\\n' || (select string_agg(format('create policy %I on %I as %s for %s to %s%s%s;', p.policyname, c.relname,
              lower(p.permissive), lower(p.cmd), array_to_string(p.roles, ', '),
              coalesce(' using (' || p.qual || ')', ''), coalesce(' with check (' || p.with_check || ')', '')), E'\\n' order by p.policyname)
            from pg_policies p where p.schemaname = 'public' and p.tablename = c.relname), '') as sql
      from pg_class c where c.relnamespace = 'public'::regnamespace and c.relrowsecurity order by c.relname`,
  ],
  [
    'Owners and privileges',
    `select format('alter %s %s owner to %I;', kind, name, pg_get_userbyid(owner)) || coalesce((
        select string_agg(format(E'\\ngrant %s on %s %s to %s;', privileges, kind, name, grantee), '' order by grantee)
        from (select coalesce(nullif(g.grantee, 0)::regrole::text, 'public') as grantee, string_agg(lower(g.privilege_type), ', ' order by g.privilege_type) as privileges
          from aclexplode(acl) g where g.grantee <> owner group by g.grantee) grants), '') as sql
      from (
        select case c.relkind when 'S' then 'sequence' when 'v' then 'view' when 'm' then 'materialized view' else 'table' end as kind,
            quote_ident(c.relname) as name, c.relowner as owner, c.relacl as acl, c.oid
          from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'S') and ${notOfAnExtension('pg_class', 'c')}
        union all
        select case p.prokind when 'p' then 'procedure' else 'function' end,
            format('%I(%s)', p.proname, pg_get_function_identity_arguments(p.oid)), p.proowner, coalesce(p.proacl, acldefault('f', p.proowner)), p.oid
          from pg_proc p where p.pronamespace = 'public'::regnamespace and p.prokind in ('f', 'p') and ${notOfAnExtension('pg_proc', 'p')}
      ) objects order by kind, name`,
  ],
];

/** @param {string} url a login that sees the catalogues @returns {Promise<string>} the text of schema.sql */
export async function describeSchema(url) {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query("set search_path = public; set timezone = 'UTC'");
    const parts = [
      '-- Generated by tools/generate.mjs: what all migrations together make. For reading; nothing runs it.',
    ];
    for (const [title, query] of sections) {
      const { rows } = await client.query(query);
      if (rows.length > 0) parts.push(`-- ${title}`, ...rows.map(({ sql }) => sql.trimEnd()));
    }
    return `${parts.join('\n\n')}\n`;
  } finally {
    await client.end();
  }
}
