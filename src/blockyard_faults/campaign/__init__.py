"""The fault campaign: does blockyard stay right when everything around it goes wrong?

`python -m blockyard_faults.campaign` puts workers of every kind to work through a proxy that does
harm at stated rates, each worker with a model of what its blocks and contents may hold, and counts
every broken promise. docs/RELIABILITY.md says what came of it.

The model, and what is counted:   `expected`.
Calls, and what they may end in:  `calls`; what a process may not do: `watch`.
Operations held to the model:     `actor` and `mix` on blocks; `contents`; `machine` (Hypothesis).
What users do to a call:          `user_code`.
The faults, and the server:       `fault_schedule`, `deadlines`, `credentials`, `bucket`.
The workers:                      `jobs`, `workers`, `leaving`.
All of it together:               `processes`, `run`, `outages` (on Ceph).
"""
