export { type Agent, type AgentOptions, type AgentTiming, type MigrationSettings, startAgent } from './agent.js';
export { chooseDriver, type DriverChoice } from './choose-driver.js';
export { EnrollmentError, type EnrollOptions, enrolledLabels, enrollMachine } from './enroll.js';
export { ForeignInstallationError } from './installation.js';
export { Wire, type WireOptions } from './migration/index.js';
