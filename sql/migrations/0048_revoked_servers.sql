-- What rhyzome-api must know of revocations as the client of a rhyzome-grpc: servers, and serial numbers, which may be a
-- server's. Not who revoked them or why.

create function revoked_servers() returns table (serial text, kind text, name text, revoked_at timestamptz)
language sql stable security definer set search_path = public, pg_temp
as $$ select serial, kind, name, revoked_at from revocation where kind is null or kind = 'server' $$;
revoke execute on function revoked_servers() from public;
grant execute on function revoked_servers() to rhyzome_app, rhyzome_operator;
