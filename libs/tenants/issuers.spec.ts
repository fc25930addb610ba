/** The cache of issuers with a load function that can fail and be slow. */
import { describe, expect, it } from 'vitest';
import { IssuerCache, type IssuerRow, issuerEntries } from './index.js';

const row = (tenantId: string): IssuerRow => ({
  issuer: `https://id.example/realms/${tenantId}`,
  organization: '',
  tenantId,
  tenantState: 'active',
  audience: null,
  jwksUri: null,
});

describe('IssuerCache', () => {
  it('finds by exact issuer and forgets what is gone', async () => {
    let rows = [row('acme'), row('globex')];
    const cache = new IssuerCache(async () => rows);
    expect(cache.find(row('acme').issuer)).toBeUndefined();
    await cache.refresh();
    expect(cache.find(row('acme').issuer)).toMatchObject({ owner: { tenantId: 'acme' } });
    expect(cache.find(`${row('acme').issuer}/`)).toBeUndefined();
    rows = [row('globex')];
    await cache.refresh();
    expect(cache.find(row('acme').issuer)).toBeUndefined();
  });

  it('keeps the old rows when the database is away, and says so', async () => {
    let away = false;
    const cache = new IssuerCache(async () => {
      if (away) throw new Error('away');
      return [row('acme')];
    });
    await cache.refresh();
    away = true;
    await expect(cache.refresh()).rejects.toThrow('away');
    expect(cache.find(row('acme').issuer)).toBeDefined();
    away = false;
    await cache.refresh();
  });

  it('reads once for many calls, but again for what came during a read', async () => {
    let reads = 0;
    let rows = [row('acme')];
    const cache = new IssuerCache(async () => {
      reads += 1;
      const seen = rows;
      await new Promise((resolve) => setTimeout(resolve, 5));
      return seen;
    });
    const first = cache.refresh();
    rows = [row('globex')];
    await Promise.all([first, cache.refresh(), cache.refresh(), cache.refresh()]);
    expect(reads).toBe(2);
    expect(cache.find(row('globex').issuer)).toBeDefined();
    await cache.refresh();
    expect(reads).toBe(3);
  });

  it('looks again for an unknown issuer, but not for each of many', async () => {
    let reads = 0;
    const cache = new IssuerCache(async () => {
      reads += 1;
      return [row('acme')];
    });
    expect(await cache.lookAgain(row('acme').issuer)).toMatchObject({ owner: { tenantId: 'acme' } });
    for (let i = 0; i < 10; i++) expect(await cache.lookAgain(`https://evil.example/${i}`)).toBeUndefined();
    expect(reads).toBe(1);
  });
});

describe('issuerEntries', () => {
  const shared = (organization: string, change: Partial<IssuerRow> = {}): IssuerRow => ({
    ...row(organization),
    issuer: 'https://id.example/realms/rhyzome',
    organization,
    ...change,
  });

  it('has the tenants of a shared issuer by their organization, each in its own state', () => {
    const entry = issuerEntries([shared('acme'), shared('globex', { tenantState: 'suspended', audience: 'x' })]).get(
      'https://id.example/realms/rhyzome',
    )!;
    expect(entry.owner).toBeUndefined();
    expect(entry.organizations.get('acme')).toEqual({ tenantId: 'acme', tenantState: 'active', audience: null });
    expect(entry.organizations.get('globex')).toMatchObject({ tenantState: 'suspended', audience: 'x' });
    expect(entry.organizations.get('initech')).toBeUndefined();
  });

  it('has one address of keys an issuer', () => {
    const rows = [shared('acme'), shared('globex', { jwksUri: 'https://id.example/keys' }), shared('initech')];
    expect([...issuerEntries(rows).values()].map(({ jwksUri }) => jwksUri)).toEqual(['https://id.example/keys']);
  });

  it.each(['before', 'after'])('lets no organization into an issuer that is one tenant’s, told %s it', (when) => {
    const whole = shared('', { tenantId: 'acme' });
    const rows = when === 'before' ? [shared('globex'), whole] : [whole, shared('globex')];
    const [entry] = [...issuerEntries(rows).values()];
    expect(entry).toMatchObject({ owner: { tenantId: 'acme' } });
    expect(entry!.organizations.size).toBe(0);
  });
});
