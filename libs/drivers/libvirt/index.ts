/** The only door of this library: the libvirt driver. */
export { createLibvirtDriver, type LibvirtOptions } from './driver.js';
export { domainName } from './places.js';
