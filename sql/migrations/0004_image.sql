-- Kind image: what instances boot from. Its content lies in the content store, addressed by sha256.

create table image (
  tenant_id text not null,
  id uuid not null,
  visibility text not null check (visibility in ('global', 'published', 'private')),
  format text not null check (format in ('qcow2', 'raw')),
  size_bytes bigint not null,
  virtual_size_bytes bigint not null,
  sha256 text not null check (sha256 ~ '^[0-9a-f]{64}$'),
  os_info jsonb not null default '{}',
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references resource (tenant_id, id) on delete cascade,
  check ((visibility = 'global') = (tenant_id = 'system'))
);
create index image_content on image (sha256);
call wall_off('image');
create policy global_images on image for select to rhyzome_app using (visibility = 'global' and tenant_id = 'system');

grant select, insert, update, delete on image to rhyzome_app, rhyzome_operator;
