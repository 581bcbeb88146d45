//! REST under /admin/v1: keys, policies, routes, the ledger.
