export * from './cidr.js';
export * from './doorbell.js';
export * from './errors.js';
export * from './ids.js';
export * from './names.js';
export * from './nesting.js';
export * from './resource.js';
export * from './tags.js';
