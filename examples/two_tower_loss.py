"""A hand-written two-tower model in a training loop of its own, with the LLM's pairs in its loss."""

import torch

from sllmr_plugin import SelectiveLoss
from sllmr_plugin.datasets.demo import load_demo

data, table = load_demo()
table = table[table["kind"] == "candidate"]
scored_users = torch.tensor(data.user_index[table["user_id"]].to_numpy())
scored_items = torch.tensor(data.item_index[table["item_id"]].to_numpy())
llm = torch.tensor(table["score"].to_numpy(), dtype=torch.float32)
cold, tail = torch.tensor(data.history_length) < 3, torch.tensor(data.popularity) < 10

torch.manual_seed(0)
users, items = torch.nn.Embedding(data.n_users + 1, 16), torch.nn.Embedding(data.n_items + 1, 16)
selective = SelectiveLoss(gate="fixed")
optimizer = torch.optim.Adam([*users.parameters(), *items.parameters(), *selective.parameters()], lr=0.01)
clicks = torch.tensor(data.train[["user", "item"]].to_numpy())


def score(user, item):
    return (users(user) * items(item)).sum(dim=1)


for epoch in range(5):
    for rows in torch.randperm(len(clicks)).split(256):
        user, clicked = clicks[rows].T
        other = torch.randint(1, data.n_items + 1, (len(rows),))
        some = torch.isin(scored_users, scored_users[torch.randint(len(llm), (32,))])  # all candidates of some users
        u, i = scored_users[some], scored_items[some]
        loss = torch.nn.functional.softplus(score(user, other) - score(user, clicked)).mean()
        loss = loss + 0.2 * selective(score(u, i), llm[some], u, cold=cold[u], tail=tail[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch + 1}:", {name: round(float(value), 3) for name, value in selective.statistics.items()})
