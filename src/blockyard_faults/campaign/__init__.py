"""The fault campaign: does blockyard stay right when everything around it goes wrong?

`python -m blockyard_faults.campaign` puts workers of every kind to work through a proxy that does
harm at stated rates, each worker with a model of what its blocks and contents may hold, and counts
every broken promise. docs/RELIABILITY.md says what came of it.

What is stored and may be found:  `blocks`, `expected`.
Calls, and what they may end in:  `calls`, `clients`, `own`, `watch`, `hurry`.
Operations and the model:         `writer`; `actor` and `mix` on blocks; `contents` and
                                  `content_mix`.
The caller's own code:            `user_code`; what comes from outside: `interrupts`.
The faults, and the server:       `fault_schedule`, `services`, `deadlines`, `credentials`,
                                  `bucket`.
The workers:                      `jobs`, `workers`, `content_workers`, `service_workers`,
                                  `leaving`, `machine` (Hypothesis); what they may not
                                  leave behind: `leaks`.
All of it together:               `processes`, `run`, `tally`, `report`, `outages` (on Ceph).
"""
