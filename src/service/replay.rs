//! Running handlers: leases, attempts, batches, throttles, sweeps.
