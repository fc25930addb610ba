export { createDatabase, dropDatabase, ensureLogin, type NewLogin } from './create-database.js';
export { endProcess, isRunning, type ProcessIdentity, processIdentity, waitForEnd } from './process-identity.js';
export { type Login, type PostgresOptions, type RunningPostgres, startPostgres } from './start-postgres.js';
export { serveTestCluster, type TestCluster, testCluster } from './test-cluster.js';
