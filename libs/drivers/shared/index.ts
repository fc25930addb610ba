/** The only door of this library: storage that several machines share. */
export * from './shared-storage.js';
