"""The tolerances of all Python tests, each with its reason; tests name them and hold no numbers.

Relative, unless a comment says otherwise.
"""

# For the same float64 arithmetic with another order of summation.
ROUNDING = 1e-12

# The knowledge-distillation document adds 1e-12 to its probabilities, which moves its printed epoch
# losses by up to 1.2e-10 of their value, and not its gradient. For weights, absolute.
DOCUMENT_TRAINING = 1e-9

# A training in float32 compared with float64: 6e-8 per operation, a few hundred steps.
# Absolute, for weights near 1.
FLOAT32_TRAINING = 1e-4

# py3langid computes scores in float32, and probabilities in another order. Absolute.
TEACHER_PROBABILITY = 1e-5

# The promise, by float type: for each part of the loss, each part of the gradient (relative
# to its row's largest entry) and the functions of softmax.
PROMISE = {"float32": 1e-5, "float64": 1e-12}

# The errors that rows within the limits of the plain path may have: the promise, in float64 a third
# of it. The worst of 25,000 random rows near the limits is off by 2.8e-13.
LIMITED = {"float32": 1e-5, "float64": 3e-13}

# Exact numbers, rounded to float64 by two programs.
EXACT = 1e-15

# A central difference of the float64 loss with a step of 1e-4: its error is the step squared, plus
# rounding divided by the step. Relative to the row's largest entry.
FINITE_DIFFERENCE = 1e-7

# Numbers in documentation: half a unit of the fewest digits that it prints.
PRINTED = 1e-6

# Margins of two boosters with the same trees: absolute after at most twelve rounds; after a
# hundred, relative to the largest margin, which is up to 10, where float32 has steps of 9.5e-7.
# They differ because XGBoost's float32 softmax and 1 - p have errors of up to 1e-3 of a gradient
# that is nearly 0, ours of 1e-6. (A custom objective with XGBoost's own arithmetic gives its
# margins of two classes bit for bit.) Measured in 36 trainings of 2, 4 and 10 classes each: at most
# 7e-7 after 10 rounds, 2e-6 after 30, 5e-6 after 100, and relative to the largest 2e-7, 3e-7 and
# 5e-7.
BOOSTED_MARGIN = 1e-6

# Logarithms of shares that are a difference of sums in float64. Absolute.
EXACT_SHARE = 1e-12

# Two optimisations of a linear student that stop at a gradient of 1e-9: they differ by that divided
# by the smallest curvature, some 1e-3. Absolute, for weights and probabilities.
LBFGS = 1e-5

# The optimum for features and teachers that were rounded to float32, 6e-8 of their value, again
# divided by the curvature. Absolute.
FLOAT32_FEATURES = 1e-4

# A booster's probabilities with its own objective and with ours at alpha 1: float32 margins that
# differ by less than 1e-6. Absolute.
BOOSTED = 1e-6

# Jensen-Shannon divided by beta approaches KL with an error proportional to beta (1e-6 there).
NEAR_KL = 1e-4

# Sums of float32 probabilities.
SUM_OF_FLOATS = 1e-6

# A booster's probabilities after sixty rounds, compared with its teacher's. Absolute.
STUDENT_PROBABILITY = 0.05

# A float64 loss summed over chunks, compared with that of the whole: the promise of kdloss.dask.
CHUNKS = 1e-13

# A booster on three processes, compared with the same trees on one: float32 sums of gradients in
# another order. Absolute, for probabilities and margins.
BOOSTED_CHUNKS = 1e-5
