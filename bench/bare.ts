/**
 * What Rhyzome is measured against: the same Fastify and pg on the same rows, with nothing else. No permission, no
 * tenant, no validation, no events: only the statement and its answer.
 */
import fastify from 'fastify';
import pg from 'pg';

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 10 });
const app = fastify();

const columns = `r.id, r.kind, r.name, r.tags, r.state, r.conditions, r.generation, r.observed_generation,
  r.deletion_protection, r.created_at, r.updated_at, r.created_by, k.subnet, host(k.gateway) as gateway, k.dns, k.domain,
  k.mtu, k.address_total, k.address_used`;
const from = 'from resource r join network k on k.tenant_id = r.tenant_id and k.id = r.id';

app.get<{ Params: { id: string } }>('/networks/:id', async (request) => {
  const result = await pool.query(`select ${columns} ${from} where r.tenant_id = $1 and r.id = $2`, [
    'acme',
    request.params.id,
  ]);
  return result.rows[0];
});

app.get('/networks', async () => {
  const result = await pool.query(
    `select ${columns} ${from} where r.tenant_id = $1 and r.kind = 'network' order by r.created_at, r.id limit 100`,
    ['acme'],
  );
  return { items: result.rows };
});

app.post<{ Body: { name: string; subnet: string } }>('/networks', async (request, reply) => {
  const result = await pool.query('insert into bare_network (name, subnet) values ($1, $2) returning *', [
    request.body.name,
    request.body.subnet,
  ]);
  return reply.status(201).send(result.rows[0]);
});

await app.listen({ host: '127.0.0.1', port: Number(process.env.PORT) });
process.stdout.write('ready\n');
