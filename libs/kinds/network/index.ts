export { claimLease, randomMac, releaseLeasesOf, renameLeasesOf } from './leases.js';
export { IsIpv4Address } from './network.dto.js';
export { network } from './network.kind.js';
export { leaveNode, placeNetworks, refreshNetworks } from './on-nodes.js';
export { addressErrors } from './subnet.js';
