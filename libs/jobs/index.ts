export * from './alarm-watch.js';
export * from './alarms.js';
export type { JobFailure } from './failure.js';
export type { JobHandler, RunnerLog } from './handler.js';
export * from './rows.js';
export type { JobRun } from './run.js';
export * from './runner.js';
