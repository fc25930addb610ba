export {
  addDomain,
  DomainCache,
  type DomainRow,
  type HostOwner,
  type InstallationHosts,
  listDomains,
  removeDomain,
  type TenantDomain,
} from './domains.js';
export {
  IssuerCache,
  type IssuerDirectory,
  type IssuerEntry,
  type IssuerRow,
  type IssuerTenant,
  issuerEntries,
  type TenantState,
} from './issuers.js';
export { DEFAULT_QUOTAS, listQuotas, type Quota, quotaNames, setQuotas, unsetQuotas } from './quotas.js';
export {
  createService,
  findService,
  listServices,
  removeService,
  type Service,
  type ServiceRightsChange,
  updateService,
} from './services.js';
export {
  createTenant,
  deleteTenant,
  findTenant,
  listTenants,
  type NewTenant,
  refuseTenantInUse,
  type Tenant,
  type TenantChange,
  type TenantIssuer,
  updateTenant,
} from './tenants.js';
