-- Kind grant: who may do what with which resources. What it gives as permissions are decided on it stands in access_rule
-- (0017), for as long as it counts.

create table access_grant (
  tenant_id text not null,
  id uuid not null,
  subject_type text not null check (subject_type in ('user', 'serviceaccount', 'group', 'role', 'sub')),
  -- The id of a user or service account, a group's or role's name, or a token's `sub`.
  subject text not null,
  verbs text[] not null,
  kinds text[] not null,
  selector text,
  resource_ids uuid[],
  -- What it gives: as asked, or for a service account what its author had of it.
  rules jsonb not null,
  -- While an update has not ended: what it gave before.
  rules_before jsonb,
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references resource (tenant_id, id) on delete cascade,
  check (selector is null or resource_ids is null)
);
call wall_off('access_grant');
call count_in_quota('access_grant', 'grants');
call filter_by('access_grant', 'subject');
-- The table is not called as the kind is, which is a word of SQL's own.
drop trigger pass_name_on_to_access_grant on resource;
create trigger pass_name_on_to_access_grant after update of name on resource for each row
  when (new.name <> old.name and new.kind = 'grant') execute function pass_name_on('access_grant');

-- From the request for its removal on, or for a cancellation of its create, it gives nothing: not only when the job ends.
create function end_grant() returns trigger language plpgsql as $$
begin
  delete from access_rule where tenant_id = new.tenant_id and grant_id = new.id;
  return null;
end $$;
create trigger end_grant after update of state on resource for each row
  when (new.kind = 'grant' and new.state = 'deleting' and old.state <> 'deleting')
  execute function end_grant();

-- Who gives waits here for whoever takes away from the giver at that moment, and then looks at what is left.
create function hold_access() returns void language sql security definer set search_path = public, pg_temp
begin atomic
  select 1 from public.tenant_access a where a.tenant_id = public.current_tenant() for update;
end;
grant execute on function hold_access() to rhyzome_app, rhyzome_operator;

grant select, insert, update, delete on access_grant to rhyzome_app, rhyzome_operator;
