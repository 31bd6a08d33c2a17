"""What attacks by optimization share: differentiable replay, distances between gradients, priors, and a descent with restarts.

| here          | meaning                                                                       |
|---------------|-------------------------------------------------------------------------------|
| r             | restarts: independent tries that run side by side in one graph                |
| b, c          | samples of the batch, classes                                                 |
| replay        | candidate inputs and labels -> the update that they would have caused         |
| distance      | between that and the observed update, one number a restart                    |
| prior         | what makes a candidate unlikely by itself, one number a restart               |
| objective     | distance + priors: what the descent lowers, and what its best iterate is chosen by |
"""
