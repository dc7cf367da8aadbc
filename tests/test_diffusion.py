"""The diffusion process, its losses and its samplers, against closed forms and torch.distributions."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from talking_heads.diffused import losses, sampling
from talking_heads.diffused.diffusion import (
    BETA_MAX,
    Prediction,
    cosine_betas,
    cosine_schedule,
    interpret,
    learned_log_variance,
    posterior_mean,
    q_sample,
    velocity,
)
from torch.distributions import Normal, kl_divergence

T = 1000


@pytest.fixture(scope="module")
def schedule():
    return cosine_schedule(T)


def frames(count, seed=0, size=4):
    """Normal values (count, 3, size, size)."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


# -- the process ----------------------------------------------------------------------------------
def test_alpha_bar_is_the_squared_cosine(schedule):
    t = np.arange(1, T + 1) / T
    f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    expected = f / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(schedule.alpha_bar[:-1], expected[:-1], atol=1e-6)
    assert cosine_betas(T).max() == BETA_MAX and schedule.alpha_bar[-1] > 0


@pytest.mark.parametrize("steps", [2, 10, 50, 200, 999])
def test_respacing(schedule, steps):
    """Evenly spaced steps, from the first to the last, at which ᾱ is that of the whole process."""
    respaced = cosine_schedule(T, steps)
    expected = [round(i * 999 / (steps - 1)) for i in range(steps)]
    assert respaced.timesteps.tolist() == expected
    torch.testing.assert_close(respaced.alpha_bar, schedule.alpha_bar[expected], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, T])
def test_trailing_steps_end_one_interval_after_the_first(steps):
    """Lin et al. (2024), table 2."""
    expected = np.flip(np.arange(T, 0, -T / steps).round()).astype(int) - 1
    assert cosine_schedule(T, steps, "trailing").timesteps.tolist() == expected.tolist()


def test_respacing_to_one_step_and_to_too_many():
    assert cosine_schedule(T, 1).timesteps.tolist() == [T - 1]
    with pytest.raises(ValueError, match="1001 sampling steps are more than the 1000"):
        cosine_schedule(T, T + 1)


@pytest.mark.parametrize("step", [1, 10, 500, 998])
def test_the_posterior_is_bayes_rule(schedule, step):
    """q(x_{t-1} | x_t, x_0) is the product of two normal densities of x_{t-1}, by precisions."""
    x_0, x_t, t = frames(2), frames(2, 1), torch.tensor([step, step])
    beta, previous = schedule.beta[step], schedule.alpha_bar_previous[step]
    precision = 1 / (1 - previous) + (1 - beta) / beta
    mean = (previous.sqrt() * x_0.double() / (1 - previous) + (1 - beta).sqrt() * x_t / beta) / precision
    torch.testing.assert_close(posterior_mean(schedule, x_0, x_t, t).double(), mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(schedule.posterior_variance[step], 1 / precision, rtol=1e-6, atol=0)


def test_the_first_posterior_is_x_0(schedule):
    x_0, t = frames(2), torch.zeros(2, dtype=torch.long)
    torch.testing.assert_close(posterior_mean(schedule, x_0, frames(2, 1), t), x_0)
    assert schedule.posterior_variance[0] == 0
    assert schedule.posterior_log_variance[0] == schedule.posterior_log_variance[1]


@pytest.mark.parametrize("prediction", ["epsilon", "velocity"])
def test_the_true_output_gives_x_0_and_the_noise_back(schedule, prediction):
    x_0, noise, t = frames(4).clamp(-1, 1), frames(4, 1), torch.tensor([0, 300, 700, 990])
    x_t = q_sample(schedule, x_0, t, noise)
    target = velocity(schedule, x_0, t, noise) if prediction == "velocity" else noise
    output = torch.cat([target, torch.zeros_like(target)], 1)
    predicted = interpret(schedule, output, x_t, t, prediction)
    torch.testing.assert_close(predicted.x_0, x_0, rtol=0, atol=2e-3)
    torch.testing.assert_close(predicted.epsilon, noise, rtol=0, atol=5e-3)


def test_x_0_is_clamped_and_the_noise_belongs_to_it(schedule):
    x_t, t = 3 * frames(2), torch.tensor([400, 400])
    output = torch.cat([frames(2, 1), torch.zeros(2, 3, 4, 4)], 1)
    predicted = interpret(schedule, output, x_t, t, "epsilon")
    assert predicted.x_0.abs().max() == 1
    torch.testing.assert_close(q_sample(schedule, predicted.x_0, t, predicted.epsilon), x_t)


def test_the_learned_variance_lies_between_the_two_bounds(schedule):
    """ν = -1 gives β̃, ν = 1 gives β, and ν = 0 their geometric mean: equation (8)."""
    t = torch.tensor([500])
    low, middle, high = (learned_log_variance(schedule, torch.full((1, 3, 1, 1), nu), t) for nu in (-1, 0, 1))
    assert torch.allclose(low, schedule.posterior_variance[500].log().float())
    assert torch.allclose(high, schedule.beta[500].log().float())
    torch.testing.assert_close(middle, (low + high) / 2)


# -- losses -----------------------------------------------------------------------------------------
def test_the_bound_of_a_perfect_mean_is_the_divergence_of_the_variances(schedule):
    """Where the network knows ε, the term is that of two normal distributions of equal means."""
    x_0, noise, t = frames(3).clamp(-1, 1), frames(3, 1), torch.tensor([5, 400, 900])
    x_t = q_sample(schedule, x_0, t, noise)
    for nu in (-1.0, 0.3, 1.0):
        output = torch.cat([noise, torch.full_like(noise, nu)], 1)
        bound = losses.variational_bound(schedule, output, x_0, x_t, t, "epsilon")
        std = schedule.posterior_variance[t].sqrt().float()
        predicted = torch.exp(0.5 * learned_log_variance(schedule, torch.full((3, 3, 1, 1), nu), t))[
            :, 0, 0, 0
        ]
        expected = kl_divergence(Normal(0.0, std), Normal(0.0, predicted)) / math.log(2)
        torch.testing.assert_close(bound, expected, rtol=1e-3, atol=1e-4)


def test_the_bound_is_a_divergence_of_normal_distributions(schedule):
    x_0, noise, wrong, t = frames(2).clamp(-1, 1), frames(2, 1), frames(2, 2), torch.tensor([200, 600])
    x_t, nu = q_sample(schedule, x_0, t, noise), frames(2, 3).clamp(-1, 1)
    bound = losses.variational_bound(schedule, torch.cat([wrong, nu], 1), x_0, x_t, t, "epsilon")
    guess = interpret(schedule, torch.cat([wrong, nu], 1), x_t, t, "epsilon", clamp=False)
    std = schedule.posterior_variance[t].sqrt().float()[:, None, None, None]
    truth = Normal(posterior_mean(schedule, x_0, x_t, t), std)
    model = Normal(posterior_mean(schedule, guess.x_0, x_t, t), torch.exp(0.5 * guess.log_variance))
    expected = kl_divergence(truth, model).mean((1, 2, 3)) / math.log(2)
    torch.testing.assert_close(bound, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "velocity"])
def test_the_bound_of_the_first_step_is_the_likelihood_of_the_levels(schedule, prediction):
    """-log₂ of the probability of each level of uint8 under the predicted normal distribution; L_0."""
    levels = torch.tensor([0, 1, 77, 128, 254, 255]).reshape(1, 1, 2, 3).expand(1, 3, 2, 3)
    x_0, t = levels / 127.5 - 1, torch.zeros(1, dtype=torch.long)
    noise, nu = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0)), 0.3
    x_t = q_sample(schedule, x_0, t, noise)
    guess = noise + 0.5  # of the network: not the true noise
    alpha_bar = float(schedule.alpha_bar[0])
    mean = (x_t - (1 - alpha_bar) ** 0.5 * guess) / alpha_bar**0.5
    target = guess if prediction == "epsilon" else velocity(schedule, mean, t, guess)
    log_variance = learned_log_variance(schedule, torch.full_like(x_0, nu), t)
    normal = Normal(mean.double(), (0.5 * log_variance).exp().double())
    above = torch.where(levels == 255, 1.0, normal.cdf(x_0.double() + 1 / 255))
    below = torch.where(levels == 0, 0.0, normal.cdf(x_0.double() - 1 / 255))
    expected = -(above - below).log2().mean()
    output = torch.cat([target, torch.full_like(x_0, nu)], 1)
    bound = losses.variational_bound(schedule, output, x_0, x_t, t, prediction)
    assert 0.5 < expected < 12
    torch.testing.assert_close(bound, expected.float()[None], rtol=1e-3, atol=1e-4)


def test_the_bound_trains_the_variance_alone(schedule):
    output = torch.cat([frames(2), frames(2, 1)], 1).requires_grad_()
    t = torch.tensor([100, 0])
    losses.variational_bound(schedule, output, frames(2, 2), frames(2, 3), t, "velocity").sum().backward()
    assert not output.grad[:, :3].any() and output.grad[:, 3:].any()


def test_probabilities_of_all_levels_sum_to_one():
    """L_0 is a discretised normal distribution over the 256 levels of a channel."""
    levels = torch.arange(256) / 127.5 - 1
    for mean, scale in ((0.1, 0.05), (-0.99, 0.2), (0.3, 2.0)):
        logs = losses.discretised_log_likelihood(levels, torch.tensor(mean), torch.tensor(math.log(scale)))
        assert logs.double().exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_the_lip_loss_is_the_mean_over_the_box():
    """Boxes are left, top, right, bottom; these are wider than high, so that a swap would show."""
    predicted, target = frames(2, size=16), frames(2, 1, size=16)
    boxes = torch.tensor([[2, 5, 12, 8], [0, 10, 16, 12]])
    expected = [
        (predicted[0, :, 5:8, 2:12] - target[0, :, 5:8, 2:12]).square().mean(),
        (predicted[1, :, 10:12, 0:16] - target[1, :, 10:12, 0:16]).square().mean(),
    ]
    torch.testing.assert_close(losses.lip_loss(predicted, target, boxes), torch.stack(expected))


@pytest.mark.parametrize(("prediction", "divisor"), [("epsilon", 0), ("velocity", 1)])
def test_min_snr_weights(schedule, prediction, divisor):
    t = torch.tensor([10, 500, 990])
    snr = schedule.alpha_bar[t] / (1 - schedule.alpha_bar[t])
    weights = losses.min_snr_weight(schedule, t, 5.0, prediction)
    torch.testing.assert_close(weights.double(), snr.clamp(max=5) / (snr + divisor), rtol=1e-6, atol=0)


# -- samplers, on normally distributed data whose best denoiser is known -----------------------------
MEAN, STD = 0.3, 0.2


def best_denoiser(schedule):
    """E[x_0 | x_t] and the variance of q(x_{t-1} | x_t) for data of N(``MEAN``, ``STD``²)."""

    def denoise(x_t, t):
        alpha_bar = schedule.alpha_bar[t].double()[:, None, None, None]
        beta = schedule.beta[t].double()[:, None, None, None]
        previous = schedule.alpha_bar_previous[t].double()[:, None, None, None]
        variance = alpha_bar * STD**2 + 1 - alpha_bar  # of x_t
        x_0 = MEAN + alpha_bar.sqrt() * STD**2 / variance * (x_t - alpha_bar.sqrt() * MEAN)
        epsilon = (x_t - alpha_bar.sqrt() * x_0) / (1 - alpha_bar).sqrt()
        spread = STD**2 * (1 - alpha_bar) / variance  # of x_0, where x_t is known
        of_x_0 = previous.sqrt() * beta / (1 - alpha_bar)
        log_variance = (beta * (1 - previous) / (1 - alpha_bar) + of_x_0**2 * spread).clamp(min=1e-20).log()
        return Prediction(x_0.float(), epsilon.float(), log_variance.float().expand(x_t.shape))

    return denoise


def flow(x, schedule):
    """The exact solution of the probability-flow equation: quantiles of x_T go to those of x_0."""
    alpha_bar = schedule.alpha_bar[-1]
    return MEAN + STD * (x - alpha_bar.sqrt() * MEAN) / (alpha_bar * STD**2 + 1 - alpha_bar).sqrt()


def error_of(sampler, steps):
    schedule, x = cosine_schedule(T, steps), frames(8)
    return (sampler(best_denoiser(schedule), x, schedule) - flow(x, schedule)).abs().max().item()


def test_ddim_converges_to_the_flow_at_first_order():
    """Twice the steps, half the error."""
    errors = [error_of(sampling.ddim, steps) for steps in (20, 40, 80, 160, 320)]
    assert all(1.8 < a / b < 2.2 for a, b in pairwise(errors)) and errors[-1] < 0.01


def test_dpm_solver_converges_to_the_flow_at_second_order():
    """Twice the steps, a quarter of the error."""
    errors = [error_of(sampling.dpm_solver, steps) for steps in (40, 80, 160, 320)]
    assert all(a / b > 3.2 for a, b in pairwise(errors))
    assert errors[-1] < 0.2 * error_of(sampling.ddim, 320)


def test_ddpm_samples_have_the_distribution_of_the_data():
    """With the best mean and variance every respacing is exact."""
    for steps in (5, 50):
        schedule = cosine_schedule(T, steps)
        x = frames(4000)
        samples = sampling.ddpm(best_denoiser(schedule), x, schedule)
        assert samples.mean().item() == pytest.approx(MEAN, abs=0.003)
        # the last step adds no noise, so that a little of the spread is lost
        assert samples.std().item() == pytest.approx(STD, rel=0.03)


def test_a_step_of_ddpm_is_algorithm_2():
    """With the learned variance, in the middle of a respaced schedule."""
    respaced, x, z = cosine_schedule(T, 3), frames(2, 1), frames(2, 2)
    epsilon, nu, visited = frames(2, 3), 0.5, []

    def denoise(x_t, t):
        visited.append(x_t)
        output = torch.cat([epsilon, torch.full_like(epsilon, nu)], 1)
        return interpret(respaced, output, x_t, t, "epsilon", clamp=False)

    sampling.ddpm(denoise, x, respaced, lambda like: z)
    first, middle = np.cumprod(1 - cosine_betas(T))[[0, 500]]
    alpha = middle / first  # of the step from 500 to 0
    beta, posterior = 1 - alpha, (1 - first) / (1 - middle) * (1 - alpha)
    sigma = math.exp(0.5 * (0.75 * math.log(beta) + 0.25 * math.log(posterior)))
    mean = (visited[1] - beta / math.sqrt(1 - middle) * epsilon) / math.sqrt(alpha)
    torch.testing.assert_close(visited[2], (mean + sigma * z).float(), rtol=1e-3, atol=1e-4)


def test_a_step_of_ddim_is_equation_12():
    schedule = cosine_schedule(T, 2)
    x, denoise = frames(2), best_denoiser(schedule)
    first = denoise(x, torch.ones(2, dtype=torch.long))
    alpha_bar = schedule.alpha_bar[0]
    x_1 = alpha_bar.sqrt() * first.x_0 + (1 - alpha_bar).sqrt() * first.epsilon
    expected = denoise(x_1, torch.zeros(2, dtype=torch.long)).x_0
    torch.testing.assert_close(sampling.ddim(denoise, x, schedule), expected)


def test_the_first_step_of_dpm_solver_is_one_of_ddim():
    """At order 1, DPM-Solver++ and DDIM are the same (Lu et al. 2022, section 4.2)."""
    schedule = cosine_schedule(T, 2)
    x, denoise = frames(2), best_denoiser(schedule)
    torch.testing.assert_close(
        sampling.dpm_solver(denoise, x, schedule), sampling.ddim(denoise, x, schedule), rtol=1e-4, atol=1e-5
    )


def test_the_second_step_of_dpm_solver_extrapolates_the_prediction():
    """Algorithm 2 of Lu et al. 2022 by hand, in double precision, for a prediction that is a table."""
    schedule = cosine_schedule(T, 3)
    predictions = {i: 0.1 * (i + 1) * torch.ones(1, 3, 4, 4) for i in range(3)}

    def denoise(x_t, t):
        x_0 = predictions[int(t[0])]
        return Prediction(x_0, x_0, x_0)

    alpha = schedule.alpha_bar.double().sqrt()
    sigma = (1 - schedule.alpha_bar.double()).sqrt()
    lamda = torch.log(alpha / sigma)
    x = frames(1).double()
    h_1, h_2 = lamda[1] - lamda[2], lamda[0] - lamda[1]
    x_1 = sigma[1] / sigma[2] * x - alpha[1] * (torch.exp(-h_1) - 1) * predictions[2]
    r = h_1 / h_2
    direction = (1 + 1 / (2 * r)) * predictions[1] - 1 / (2 * r) * predictions[2]
    seen = []

    def record(x_t, t):
        seen.append(x_t)
        return denoise(x_t, t)

    assert torch.equal(sampling.dpm_solver(record, x.float(), schedule), predictions[0])
    torch.testing.assert_close(seen[1].double(), x_1, rtol=1e-4, atol=1e-4)
    x_2 = sigma[0] / sigma[1] * x_1 - alpha[0] * (torch.exp(-h_2) - 1) * direction
    torch.testing.assert_close(seen[2].double(), x_2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", sampling.SAMPLERS.values())
def test_samplers_ask_for_every_step_once_from_the_last_to_the_first(sampler):
    schedule, steps = cosine_schedule(T, 7), []
    denoise = best_denoiser(schedule)

    def record(x_t, t):
        steps.append(t.tolist())
        return denoise(x_t, t)

    x, samples = frames(2), []
    for _ in range(2):
        torch.manual_seed(3)
        samples.append(sampler(record, x, schedule))
    assert steps[:7] == [[i, i] for i in reversed(range(7))]
    assert torch.equal(*samples)
