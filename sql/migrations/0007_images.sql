-- Images of tenants: their content comes after their row, and a tenant can show one to all others.

alter table image
  -- All four are null until the content is there and checked.
  alter column format drop not null,
  alter column size_bytes drop not null,
  alter column virtual_size_bytes drop not null,
  alter column sha256 drop not null,
  add column source text not null default 'import' check (source in ('import', 'upload', 'url', 'snapshot')),
  -- A secret may stand in its query: it is gone once the content is there.
  add column source_url text,
  add column source_snapshot_id uuid,
  -- What the content was said to be, checked when it is there.
  add column announced_sha256 text check (announced_sha256 ~ '^[0-9a-f]{64}$'),
  add column announced_size_bytes bigint check (announced_size_bytes > 0),
  add column announced_format text check (announced_format in ('qcow2', 'raw')),
  -- Of the try that brings the content: names its part file and, with a snapshot, the deed. Null once it is there.
  add column operation_id uuid,
  -- The tenant's name when it published the image: other tenants cannot read its row.
  add column publisher_name text,
  add constraint content_is_whole check (
    num_nulls(format, size_bytes, virtual_size_bytes, sha256) in (0, 4)),
  add constraint publisher_is_named check ((visibility = 'published') = (publisher_name is not null));
create unique index image_operation on image (operation_id) where operation_id is not null;

-- A content that comes in pieces, as long as it is waited for. What lies in the part file is the truth of what arrived.
create table image_upload (
  tenant_id text not null,
  image_id uuid not null,
  operation_id uuid not null,
  -- Of the whole content, once somebody has said it.
  total_bytes bigint,
  received_bytes bigint not null default 0,
  is_complete boolean not null default false,
  -- One writes at a time, as long as it renews this.
  writer uuid,
  writer_until timestamptz,
  progressed_at timestamptz(3) not null default now(),
  primary key (tenant_id, image_id),
  foreign key (tenant_id, image_id) references image (tenant_id, id) on delete cascade
);
call wall_off('image_upload');

-- What a tenant shows to all others: to be read, by id and in lists, and never to be written.
alter table resource add column published boolean not null default false;
alter table resource_tag add column published boolean not null default false;
create index resource_published on resource (kind, created_at, id) where published;
create unique index resource_published_id on resource (id) where published;
create policy published on resource for select to rhyzome_app using (published);
create policy published on resource_tag for select to rhyzome_app using (published);
create policy published on image for select to rhyzome_app using (visibility = 'published');

create or replace function keep_tags() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' then
    delete from resource_tag where tenant_id = new.tenant_id and resource_id = new.id;
  end if;
  insert into resource_tag (tenant_id, kind, key, value, resource_id, published)
  select new.tenant_id, new.kind, key, value, new.id, new.published from jsonb_each_text(new.tags);
  return null;
end $$;
create function keep_published() returns trigger language plpgsql as $$
begin
  update resource_tag set published = new.published where tenant_id = new.tenant_id and resource_id = new.id;
  return null;
end $$;
create trigger keep_published after update of published on resource
  for each row when (new.published is distinct from old.published) execute function keep_published();

-- Whose job asked for the deed, where that is another resource than the deed's own: it is woken, too.
alter table deed add column asked_by uuid;

grant select, insert, update, delete on image_upload to rhyzome_app, rhyzome_operator;
