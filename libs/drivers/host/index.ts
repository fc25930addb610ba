/** The only door of this library: running programs, and hosts made of namespaces. */
export * from './can-host.js';
export * from './command.js';
export * from './host.js';
export * from './machine-state.js';
export { commandLine, endProcesses, sendSignal, startTime } from './processes.js';
export * from './wires.js';
